// Warp collectives and block barriers. A lane that arrives somewhere else than the lanes it should meet is an error, not a hang.
#include <algorithm>
#include <bit>

#include "block.h"
#include "wrappers.h"

namespace anneal::simt {
namespace {

template <class F> void each_lane(uint32_t mask, F&& body) {
  for (; mask; mask &= mask - 1) body(std::countr_zero(mask));
}

void complete(Block& block, Warp& warp, Pending& pending, const Fiber* last) {
  const uint32_t arrived = pending.arrived;
  switch (pending.kind) {
    case Collective::shuffle: ++block.counts.shuffles; break;
    case Collective::ldmatrix: ++block.counts.ldmatrix; break;
    case Collective::mma: ++block.counts.mma; break;
    default: break;
  }
  if (pending.apply) pending.apply(pending.operands, arrived);
#if defined(ANNEAL_SIMT_HOOKS)
  // Of these only __syncwarp orders memory.
  if (pending.kind == Collective::sync) {
    std::vector<Fiber*> members;
    each_lane(arrived, [&](int lane) { members.push_back(&block.fibers[warp.index * 32 + lane]); });
    race_join(block, members);
  }
#endif
  pending.arrived = 0;
  --warp.pending_count;
  set_ready(block, warp, last ? arrived & ~(1u << last->lane) : arrived);
}

bool is_complete(const Warp& warp, const Pending& pending) {
  const uint32_t needed = pending.mask & ~warp.ended;
  return (pending.arrived & needed) == needed;
}

void release(Block& block, Barrier& barrier, const Fiber* last) {
  ++block.counts.barriers;
#if defined(ANNEAL_SIMT_HOOKS)
  if (barrier.wanted < 0) {
    race_join_all(block);
  } else {
    std::vector<Fiber*> members;
    for (int w = 0; w < block.warp_count; ++w) each_lane(barrier.waiting[w], [&](int lane) { members.push_back(&block.fibers[w * 32 + lane]); });
    race_join(block, members);
  }
#endif
  for (int w = 0; w < block.warp_count; ++w) {
    uint32_t lanes = barrier.waiting[w];
    barrier.waiting[w] = 0;
    if (last && last->warp->index == w) lanes &= ~(1u << last->lane);
    if (lanes) set_ready(block, block.warps[w], lanes);
  }
  barrier.arrived = 0;
}

}  // namespace

void collective(Collective kind, uint32_t mask, void* operand, void (*apply)(void**, uint32_t), const char* name, Site site) {
  Fiber& fiber = *current_fiber();
  Block& block = *fiber.block;
  Warp& warp = *fiber.warp;
  const uint32_t bit = 1u << fiber.lane;
  if ((kind == Collective::mma || kind == Collective::ldmatrix) && (warp.ended || warp.members != ~0u))
    fail("divergence", "%s %s in warp %d, whose lanes %08x have ended or do not exist", name, format_site(site).c_str(), warp.index, warp.ended | ~warp.members);
  mask &= warp.members;
  if (!(mask & bit)) fail("divergence", "%s %s: lane %d is not in its own mask %08x", name, format_site(site).c_str(), fiber.lane, mask);
  Pending* found = nullptr;
  Pending* empty = nullptr;
  if (warp.pending_count == 0) {
    empty = &warp.pending[0];
  } else {
    for (auto& pending : warp.pending) {
      if (!pending.arrived) {
        if (!empty) empty = &pending;
      } else if (pending.mask == mask && pending.kind == kind && pending.name == name && pending.site.line == site.line && pending.site.file == site.file) {
        found = &pending;
      } else if (pending.mask & mask) {
        fail("divergence", "lane %d of warp %d is at %s %s with mask %08x, while lanes %08x wait at %s %s with mask %08x", fiber.lane, warp.index, name,
             format_site(site).c_str(), mask, pending.arrived, pending.name, format_site(pending.site).c_str(), pending.mask);
      }
    }
  }
  if (!found) {
    if (!empty) fail("divergence", "the lanes of warp %d wait at more than four places", warp.index);
    found = empty;
    ++warp.pending_count;
    found->mask = mask;
    found->kind = kind;
    found->name = name;
    found->site = site;
    found->apply = apply;
  }
  found->operands[fiber.lane] = operand;
  found->arrived |= bit;
  if (is_complete(warp, *found)) {
    warp.pc = __builtin_return_address(0);
    complete(block, warp, *found, &fiber);
    maybe_yield(block, fiber);
  } else {
    clear_ready(block, fiber);
    suspend(block, fiber, name, site);
  }
}

void barrier(int id, int count, const char* name, Site site) {
  Fiber& fiber = *current_fiber();
  Block& block = *fiber.block;
  if (id < 0 || id > 15 || (count >= 0 && (count == 0 || count % 32 || count > block.threads)))
    fail("launch", "%s %s: barrier %d of %d threads does not exist in a block of %d", name, format_site(site).c_str(), id, count, block.threads);
  Barrier& barrier = block.barriers[id];
  block.barriers_used |= 1u << id;
  if (barrier.arrived == 0) {
    barrier.wanted = count;
    barrier.name = name;
    barrier.site = site;
  } else if (barrier.wanted != count || (count < 0 && (barrier.site.line != site.line || barrier.site.file != site.file))) {
    fail("divergence", "block %u: thread %d is at %s %s, while %d threads wait at %s %s", block.linear, fiber.linear, name, format_site(site).c_str(),
         barrier.arrived, barrier.name, format_site(barrier.site).c_str());
  }
  ++barrier.arrived;
  barrier.waiting[fiber.warp->index] |= 1u << fiber.lane;
  if (barrier.arrived == (count < 0 ? block.live : count)) {
    release(block, barrier, &fiber);
    maybe_yield(block, fiber);
  } else {
    clear_ready(block, fiber);
    suspend(block, fiber, name, site);
  }
}

int barrier_vote(bool predicate, BlockVote vote, Site site) {
  Block& block = *current_fiber()->block;
  block.votes += predicate;
  if (++block.voted == block.live) {
    block.vote_result = vote == BlockVote::count ? block.votes : vote == BlockVote::any ? block.votes > 0 : block.votes == block.live;
    block.votes = block.voted = 0;
  }
  barrier(0, -1, "__syncthreads_vote", site);
  const int result = block.vote_result;
  barrier(0, -1, "__syncthreads_vote", site);
  return result;
}

void thread_ended(Block& block, Fiber& fiber) {
  Warp& warp = *fiber.warp;
  const AsyncCopies& copies = block.copies[fiber.linear];
  if (copies.done < copies.queue.size()) fail("cp.async", "block %u: thread %d ends with copies under way", block.linear, fiber.linear);
  clear_ready(block, fiber);
  warp.ended |= 1u << fiber.lane;
  --block.live;
  if (warp.pending_count)
    for (auto& pending : warp.pending)
      if (pending.arrived && is_complete(warp, pending)) complete(block, warp, pending, nullptr);
  for (uint32_t used = block.barriers_used; used; used &= used - 1) {
    Barrier& barrier = block.barriers[std::countr_zero(used)];
    if (barrier.arrived && barrier.wanted < 0 && barrier.arrived == block.live) release(block, barrier, nullptr);
  }
}

void apply_shuffle(void** operands, uint32_t mask) {
  each_lane(mask, [&](int lane) {
    auto& own = *static_cast<Shuffle*>(operands[lane]);
    if (own.from < 0 || own.from > 31 || !(mask >> own.from & 1)) fail("divergence", "a shuffle: lane %d reads lane %d, which does not take part (%08x)", lane, own.from, mask);
    own.result = static_cast<Shuffle*>(operands[own.from])->value;
  });
}

uint32_t vote(uint32_t mask, uint32_t value, void (*apply)(void**, uint32_t), const char* name, Site site) {
  Vote operand{value, 0};
  collective(Collective::vote, mask, &operand, apply, name, site);
  return operand.result;
}

namespace {

uint32_t value_of(void** operands, int lane) { return static_cast<Vote*>(operands[lane])->value; }

template <class F> void reduce(void** operands, uint32_t mask, F&& combine) {
  uint32_t result = value_of(operands, std::countr_zero(mask));
  each_lane(mask & (mask - 1), [&](int lane) { result = combine(result, value_of(operands, lane)); });
  each_lane(mask, [&](int lane) { static_cast<Vote*>(operands[lane])->result = result; });
}

}  // namespace

void apply_ballot(void** operands, uint32_t mask) {
  uint32_t ballot = 0;
  each_lane(mask, [&](int lane) { ballot |= value_of(operands, lane) << lane; });
  each_lane(mask, [&](int lane) { static_cast<Vote*>(operands[lane])->result = ballot; });
}
void apply_match(void** operands, uint32_t mask) {
  each_lane(mask, [&](int lane) {
    uint32_t same = 0;
    each_lane(mask, [&](int other) { same |= uint32_t{value_of(operands, other) == value_of(operands, lane)} << other; });
    static_cast<Vote*>(operands[lane])->result = same;
  });
}
void apply_reduce_add(void** operands, uint32_t mask) { reduce(operands, mask, [](uint32_t a, uint32_t b) { return a + b; }); }
void apply_reduce_min(void** operands, uint32_t mask) { reduce(operands, mask, [](uint32_t a, uint32_t b) { return std::min(a, b); }); }
void apply_reduce_max(void** operands, uint32_t mask) { reduce(operands, mask, [](uint32_t a, uint32_t b) { return std::max(a, b); }); }
void apply_reduce_min_signed(void** operands, uint32_t mask) {
  reduce(operands, mask, [](uint32_t a, uint32_t b) { return static_cast<int>(a) < static_cast<int>(b) ? a : b; });
}
void apply_reduce_max_signed(void** operands, uint32_t mask) {
  reduce(operands, mask, [](uint32_t a, uint32_t b) { return static_cast<int>(a) > static_cast<int>(b) ? a : b; });
}
void apply_reduce_and(void** operands, uint32_t mask) { reduce(operands, mask, [](uint32_t a, uint32_t b) { return a & b; }); }
void apply_reduce_or(void** operands, uint32_t mask) { reduce(operands, mask, [](uint32_t a, uint32_t b) { return a | b; }); }
void apply_reduce_xor(void** operands, uint32_t mask) { reduce(operands, mask, [](uint32_t a, uint32_t b) { return a ^ b; }); }

}  // namespace anneal::simt
