#include "allocator.h"

#include <cstdlib>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace anneal {

namespace {

constexpr size_t huge_page = 2u << 20;
constexpr size_t small_segment = 4u << 20;
constexpr size_t large_segment = 32u << 20;  // requests below half of it share a segment

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

void* HostMemory::allocate(size_t bytes) {
  void* segment = std::aligned_alloc(huge_page, bytes);
#if defined(__linux__)
  if (segment && bytes > small_segment) madvise(segment, bytes, MADV_HUGEPAGE);
#endif
  return segment;
}

void HostMemory::release(void* segment) { std::free(segment); }

void Allocator::release_all() {
  for (Block* first : segments_) {
    memory_.release(first->data);
    for (Block* block = first; block;) {
      Block* next = block->next;
      delete block;
      block = next;
    }
  }
  segments_.clear();
  small_.free.clear();
  large_.free.clear();
}

Allocator::Block* Allocator::allocate(size_t bytes) {
  bool small = bytes <= small_bytes;
  if (memory_.exact()) bytes = bytes ? bytes : 1;
  else bytes = small ? round_up(bytes ? bytes : 1, 256) : round_up(bytes, 64 << 10);
  Bin& bin = small ? small_ : large_;
  Block key{nullptr, bytes, small};
  auto found = bin.free.lower_bound(&key);
  Block* block;
  if (found != bin.free.end() && !memory_.exact()) {
    block = *found;
    bin.free.erase(found);
  } else {
    size_t least = memory_.exact() ? bytes : round_up(bytes, huge_page);
    size_t segment = memory_.exact() ? bytes : small ? small_segment : bytes < large_segment / 2 ? large_segment : least;
    if (limit_ && statistics_.system + segment > limit_) segment = least;
    if (limit_ && statistics_.system + segment > limit_) return nullptr;
    void* data = memory_.allocate(segment);
    if (!data && segment > least) data = memory_.allocate(segment = least);
    if (!data) return nullptr;
    statistics_.system += segment;
    block = new Block{static_cast<char*>(data), segment, small};
    segments_.push_back(block);
  }
  size_t least_rest = small ? 256 : 64 << 10;
  if (!memory_.exact() && block->bytes >= bytes + least_rest) {
    Block* rest = new Block{block->data + bytes, block->bytes - bytes, small, 0, block, block->next};
    if (block->next) block->next->previous = rest;
    block->next = rest;
    block->bytes = bytes;
    bin.free.insert(rest);
  }
  block->references = 1;
  statistics_.live += block->bytes;
  ++statistics_.blocks;
  if (statistics_.live > statistics_.peak) statistics_.peak = statistics_.live;
  return block;
}

void Allocator::absorb_next(Block* block) {
  Block* next = block->next;
  block->bytes += next->bytes;
  block->next = next->next;
  if (block->next) block->next->previous = block;
  delete next;
}

void Allocator::release(Block* block) {
  if (--block->references > 0) return;
  statistics_.live -= block->bytes;
  --statistics_.blocks;
  Bin& bin = block->small ? small_ : large_;
  if (block->next && block->next->references == 0) {
    bin.free.erase(block->next);
    absorb_next(block);
  }
  if (block->previous && block->previous->references == 0) {
    block = block->previous;
    bin.free.erase(block);
    absorb_next(block);
  }
  bin.free.insert(block);
}

std::vector<void*> Allocator::take_free_segments() {
  std::vector<void*> taken;
  std::vector<Block*> kept;
  for (Block* first : segments_) {
    if (first->references == 0 && !first->next) {
      (first->small ? small_ : large_).free.erase(first);
      statistics_.system -= first->bytes;
      taken.push_back(first->data);
      delete first;
    } else {
      kept.push_back(first);
    }
  }
  segments_ = std::move(kept);
  return taken;
}

}  // namespace anneal
