// emu.cpp - scheduler, collectives, cp.async, race detector. Compile WITHOUT -fsanitize=thread.
#include "emulator.h"
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim
#undef __syncthreads
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <atomic>
#include <mutex>
#include <map>
#include <set>
#include <unordered_map>
#include <thread>
#include <vector>
#if !defined(__x86_64__) || defined(EMU_UCONTEXT)
#define EMU_USE_UCONTEXT 1
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#define EMU_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace anneal::simt {
thread_local Fiber* cur = nullptr;
thread_local Idx idx;
Config cfg; Stats stats; Report report;
static std::mutex g_mu;

void error(const char* kind, const char* fmt, ...) {
  std::lock_guard<std::mutex> l(g_mu);
  report.errors++;
  if (report.errors > 40) return;
  char b[1024]; va_list a; va_start(a, fmt); vsnprintf(b, sizeof b, fmt, a); va_end(a);
  report.text += std::string(kind) + ": " + b + "\n";
}

// ------------------------------------------------------------ context switch
#ifdef EMU_USE_UCONTEXT
struct Ctx { ucontext_t u; };
static void ctx_switch(Fiber* from, Fiber* to) { swapcontext(&((Ctx*)from->sp)->u, &((Ctx*)to->sp)->u); }
#else
extern "C" void emu_switch(void** save, void* to);
asm(R"(
.text
.globl emu_switch
.type emu_switch,@function
emu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emu_switch,.-emu_switch
)");
static inline void ctx_switch(Fiber* from, Fiber* to) { emu_switch(&from->sp, to->sp); }
#endif

struct CpOp { unsigned char* dst; const unsigned char* src; int n; bool pred; };
struct CpGroup { std::vector<CpOp> q; std::vector<size_t> ends; size_t head = 0, ghead = 0; };

struct Coll { uint32_t arrived = 0, mask = 0; Op op = Op::None; const char* where = ""; void* ptr[32]; void (*fn)(void**, uint32_t) = nullptr; };
struct Warp { uint32_t ready = 0, full = 0, exited = 0; int id = 0; Coll coll[4]; };
struct Bar { int n = 0, need = 0; uint32_t set[32] = {}; const char* where = nullptr; };
struct Cell { uint32_t w, wc, r1, r1c, r2, r2c; };
struct Region { unsigned char* lo; size_t n; Cell* sh; bool shared; const char* name; };
struct SMem { const void* tag; unsigned char* p; size_t n; bool fresh; };

struct Block {
  ~Block();
  int nthr = 0, nwarp = 0, live = 0; uint32_t lin = 0; uint32_t warps_ready = 0;
  Warp w[32]; Bar bar[16]; std::vector<Fiber> f; Fiber main;
  void (*thunk)(void*) = nullptr; void* args = nullptr;
  unsigned char* dyn = nullptr; size_t dynn = 0; std::vector<SMem> st; std::vector<Region> sreg;
  int red = 0, redout = 0, redn = 0; uint64_t rng = 1; Stats s{}; bool dead = false;
  std::vector<CpGroup> cps; char* stacks = nullptr; size_t stk = 0, stknum = 0; std::vector<uint32_t> vcs;
  struct Prof { uint32_t mask = 0; uint8_t n = 0; bool write = false, shared = false; const void* pc; uintptr_t a[32]; };
  std::map<std::tuple<int, const void*, uint32_t>, Prof> prof; std::vector<std::unordered_map<const void*, uint32_t>> occ;
};

static std::vector<Region> g_glob;
struct Agg { uint64_t req = 0, wave = 0, ideal = 0, bytes = 0; bool shared, write; };
static std::map<const void*, Agg> g_agg;

static inline uint64_t rnd(Block& b) { b.rng ^= b.rng << 13; b.rng ^= b.rng >> 7; b.rng ^= b.rng << 17; return b.rng; }
static inline int nth_bit(uint32_t m, int n) { while (n--) m &= m - 1; return __builtin_ctz(m); }

static Fiber* pick(Block& b, int warp_hint) {
  if (!b.warps_ready) return nullptr;
  int wi, li;
  if (cfg.order == Order::Ascending) {
    wi = (b.warps_ready >> warp_hint & 1) ? warp_hint : __builtin_ctz(b.warps_ready);
    li = __builtin_ctz(b.w[wi].ready);
  } else if (cfg.order == Order::Descending) {
    wi = (b.warps_ready >> warp_hint & 1) ? warp_hint : 31 - __builtin_clz(b.warps_ready);
    li = 31 - __builtin_clz(b.w[wi].ready);
  } else {
    uint64_t r = rnd(b);
    // mostly stay in the warp (bursts of adversarial length), sometimes hop
    if ((b.warps_ready >> warp_hint & 1) && (r & 7)) wi = warp_hint;
    else wi = nth_bit(b.warps_ready, (int)((r >> 8) % __builtin_popcount(b.warps_ready)));
    li = nth_bit(b.w[wi].ready, (int)((r >> 32) % __builtin_popcount(b.w[wi].ready)));
  }
  return &b.f[wi * 32 + li];
}
static inline void set_ready(Block& b, int wi, uint32_t m) { b.w[wi].ready |= m; if (b.w[wi].ready) b.warps_ready |= 1u << wi; }
static inline void clr_ready(Block& b, Fiber* f) { Warp& w = *f->warp; w.ready &= ~(1u << f->lane); if (!w.ready) b.warps_ready &= ~(1u << w.id); }

static Fiber* next_fiber(Block& b, int hint) { return pick(b, hint); }
static void switch_to(Block& b, Fiber* from, Fiber* to, bool dying) {
  b.s.switches++;
#ifdef EMU_ASAN
  __sanitizer_start_switch_fiber(dying ? nullptr : &from->fake, to->stk, to->stksz);
#else
  (void)dying;
#endif
  cur = (to == &b.main) ? nullptr : to;
  ctx_switch(from, to);
#ifdef EMU_ASAN
  __sanitizer_finish_switch_fiber(from->fake, nullptr, nullptr);
#endif
}
// current fiber cannot run: go elsewhere
static void block_current(Block& b, Fiber* f, const char* where) {
  f->where = where; f->state = 1;
  Fiber* n = next_fiber(b, f->warp->id);
  if (n == f) { f->state = 0; return; }
  if (!n) n = &b.main;               // deadlock: main reports
  switch_to(b, f, n, false);
  f->state = 0;
}
static void maybe_yield(Block& b, Fiber* f) {   // f stays ready
  if (cfg.order != Order::Random || (rnd(b) & 1)) return;
  Fiber* n = pick(b, f->warp->id);
  if (n && n != f) switch_to(b, f, n, false);
}
void yield_hint() { if (cur) maybe_yield(*cur->blk, cur); }

// ------------------------------------------------------------ vector clocks
static void vc_join(Block& b, const std::vector<Fiber*>& ps) {
  if (!cfg.race || ps.empty()) return;
  int n = b.nthr; std::vector<uint32_t> j(n, 0);
  for (Fiber* p : ps) for (int i = 0; i < n; i++) j[i] = std::max(j[i], p->vc[i]);
  for (Fiber* p : ps) { memcpy(p->vc, j.data(), n * 4); p->vc[p->lin]++; }
}

// ------------------------------------------------------------ warp collectives
static void complete(Block& b, Warp& w, Coll& c, Fiber* self) {
  void* ptrs[32]; uint32_t m = c.arrived; memcpy(ptrs, c.ptr, sizeof ptrs);
  b.s.collectives++;
  if (c.op == Op::Mma) b.s.mma++; else if (c.op == Op::Ldmatrix) b.s.ldmatrix++; else if (c.op == Op::Shfl) b.s.shfl++;
  if (c.fn) c.fn(ptrs, m);
  if (c.op == Op::SyncWarp && cfg.race) { std::vector<Fiber*> ps; for (uint32_t k = m; k; k &= k - 1) ps.push_back(&b.f[w.id * 32 + __builtin_ctz(k)]); vc_join(b, ps); }
  c.arrived = 0;
  set_ready(b, w.id, m & ~(self ? 1u << self->lane : 0));
}
void collective(Op op, uint32_t mask, void* operand, void (*fn)(void**, uint32_t), const char* where) {
  Fiber* f = cur; Block& b = *f->blk; Warp& w = *f->warp; uint32_t bit = 1u << f->lane;
  if ((op == Op::Mma || op == Op::Ldmatrix) && (w.exited || w.full != ~0u)) error("divergence", "%s with exited/absent lanes (%08x) in warp %d", where, w.exited | ~w.full, w.id);
  mask &= w.full;
  if (!(mask & bit)) error("divergence", "%s: lane %d not in its own mask %08x", where, f->lane, mask);
  Coll* c = nullptr; Coll* freec = nullptr;
  for (auto& k : w.coll) { if (!k.arrived) { if (!freec) freec = &k; continue; }
    if (k.mask == mask && k.op == op && k.where == where) c = &k;
    else if (k.mask & mask) error("divergence", "warp %d block %u: lane %d at %s mask %08x while lanes %08x wait at %s mask %08x", w.id, b.lin, f->lane, where, mask, k.arrived, k.where, k.mask); }
  if (!c) { c = freec; if (!c) { error("divergence", "too many pending collectives"); return; } c->mask = mask; c->op = op; c->where = where; c->fn = fn; }
  c->ptr[f->lane] = operand; c->arrived |= bit;
  uint32_t need = mask & ~w.exited;
  if ((c->arrived & need) == need) { complete(b, w, *c, f); maybe_yield(b, f); }
  else { clr_ready(b, f); block_current(b, f, where); }
}

// ------------------------------------------------------------ block barriers
static void bar_release(Block& b, Bar& s, Fiber* self) {
  b.s.barriers++;
  if (cfg.race) { std::vector<Fiber*> ps; for (int w = 0; w < b.nwarp; w++) for (uint32_t k = s.set[w]; k; k &= k - 1) ps.push_back(&b.f[w * 32 + __builtin_ctz(k)]); vc_join(b, ps); }
  for (int w = 0; w < b.nwarp; w++) { uint32_t m = s.set[w]; s.set[w] = 0; if (self && self->warp->id == w) m &= ~(1u << self->lane); if (m) set_ready(b, w, m); }
  s.n = 0; s.where = nullptr;
}
void barrier(int id, int count, const char* where) {
  Fiber* f = cur; Block& b = *f->blk; Bar& s = b.bar[id];
  if (s.n && s.where != where && count < 0) error("divergence", "block %u: thread %d at __syncthreads %s while others wait at %s", b.lin, f->lin, where, s.where);
  if (s.n == 0) { s.where = where; s.need = count; }
  else if (s.need != count) error("divergence", "bar.sync %d: count %d vs %d", id, count, s.need);
  s.n++; s.set[f->warp->id] |= 1u << f->lane;
  if (s.n == (count < 0 ? b.live : count)) { bar_release(b, s, f); maybe_yield(b, f); }
  else { clr_ready(b, f); block_current(b, f, where); }
}
int barrier_reduce(int pred, int kind) {
  Block& b = *cur->blk; b.red += pred; b.redn++; int live = b.live;
  if (b.redn == live) { b.redout = kind == 2 ? b.red : kind == 1 ? b.red > 0 : b.red == live; b.red = 0; b.redn = 0; }
  barrier(0, -1, "__syncthreads_red"); int r = b.redout; barrier(0, -1, "__syncthreads_red2"); return r;
}
static void on_exit(Block& b, Fiber* f) {
  Warp& w = *f->warp; f->state = 2; clr_ready(b, f); w.exited |= 1u << f->lane; b.live--;
  if (f->cp && f->cp->head < f->cp->q.size()) error("cp.async", "block %u thread %d exits with cp.async in flight", b.lin, f->lin);
  for (auto& c : w.coll) if (c.arrived && (c.arrived & c.mask & ~w.exited) == (c.mask & ~w.exited)) complete(b, w, c, nullptr);
  for (auto& s : b.bar) if (s.n && s.need < 0 && s.n == b.live) bar_release(b, s, nullptr);
}
static void fiber_main() {
  Fiber* f = cur; Block& b = *f->blk;
#ifdef EMU_ASAN
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
  b.thunk(b.args);
  f = cur; on_exit(b, f);
  Fiber* n = next_fiber(b, f->warp->id); if (!n) n = &b.main;
  switch_to(b, f, n, true);
  __builtin_trap();
}
extern "C" void emu_fiber_entry() { fiber_main(); }
#ifndef EMU_USE_UCONTEXT
asm(R"(
.text
.globl emu_tramp
.type emu_tramp,@function
emu_tramp:
  xorl %ebp, %ebp
  pushq $0
  call emu_fiber_entry
  ud2
.size emu_tramp,.-emu_tramp
)");
extern "C" void emu_tramp();
#endif

// ------------------------------------------------------------ memory
#ifdef EMU_ASAN
static const size_t STK = 256 * 1024;
#else
static const size_t STK = 64 * 1024;
#endif
static const size_t GUARD = 4096, RZ = 512;
#ifdef EMU_ASAN
static const size_t SGUARD = 0;
#else
static const size_t SGUARD = 1024;
#endif
static unsigned char* aligned(size_t n) { void* p = nullptr; if (posix_memalign(&p, 1024, n ? n : 1)) abort(); return (unsigned char*)p; }
void* dmalloc(size_t n, bool poison) {
#ifdef EMU_ASAN
  unsigned char* p = aligned(n);
#else
  unsigned char* base = aligned(n + 2 * 1024 + RZ); unsigned char* p = base + 1024; memset(base, 0xEE, 1024); memset(p + n, 0xEE, RZ);
#endif
  if (poison) memset(p, 0xFF, n);
  Region r{p, n, nullptr, false, "global"};
  if (cfg.race) r.sh = (Cell*)calloc(n + 1, sizeof(Cell));
  std::lock_guard<std::mutex> l(g_mu); g_glob.push_back(r); return p;
}
void dfree(void* q) {
  std::lock_guard<std::mutex> l(g_mu);
  for (size_t i = 0; i < g_glob.size(); i++) if (g_glob[i].lo == q) {
    free(g_glob[i].sh);
#ifdef EMU_ASAN
    free(q);
#else
    unsigned char* p = (unsigned char*)q; size_t n = g_glob[i].n; bool bad = false;
    for (size_t k = 0; k < 1024; k++) bad |= p[k - 1024] != 0xEE; for (size_t k = 0; k < RZ; k++) bad |= p[n + k] != 0xEE;
    if (bad) { report.errors++; report.text += "out-of-bounds: guard bytes overwritten\n"; }
    free(p - 1024);
#endif
    g_glob.erase(g_glob.begin() + i); return; }
}
void* dyn_smem() { return cur->blk->dyn; }
void* static_smem(const void* tag, size_t n, size_t) {
  Block& b = *cur->blk;
  for (auto& s : b.st) if (s.tag == tag) { if (!s.fresh) { memset(s.p, 0xFF, s.n); s.fresh = true; b.sreg.push_back({s.p, s.n, cfg.race ? (Cell*)calloc(s.n, sizeof(Cell)) : nullptr, true, "shared"}); } return s.p; }
  SMem s{tag, aligned(n), n, true}; memset(s.p, 0xFF, n); b.st.push_back(s);
  b.sreg.push_back({s.p, n, cfg.race ? (Cell*)calloc(n, sizeof(Cell)) : nullptr, true, "shared"});
  return s.p;
}
static bool in_smem(Block& b, const void* p, size_t n) {
  for (auto& r : b.sreg) if ((unsigned char*)p >= r.lo && (unsigned char*)p + n <= r.lo + r.n) return true;
  return false;
}

// ------------------------------------------------------------ race detector
static void race_report(Block& b, Region& r, size_t off, uint32_t who, uint32_t other, bool w, bool ow, const void* pc) {
  static std::set<std::tuple<const void*, bool, bool>> seen;
  { std::lock_guard<std::mutex> l(g_mu); if (!seen.insert({pc, w, ow}).second && report.errors > 0) return; }
  uint32_t me = who - 1, ot = other - 1; uint32_t n = b.nthr;
  error("race", "%s memory offset %zu of region[%zu]: %s by block %u thread %u at pc %p conflicts with earlier %s by block %u thread %u", r.name, off, r.n,
        w ? "write" : "read", me / n, me % n, pc, ow ? "write" : "read", ot / n, ot % n);
}
static const uint32_t ATOM = 0x80000000u;
void access(const void* p0, size_t n, bool write, bool atomic, const void* pc) {
  Fiber* f = cur; if (!f) return;
  uintptr_t a = (uintptr_t)p0; if (a - (uintptr_t)f->stk < f->stksz) return;   // own stack
  if (!cfg.race && !cfg.profile) return;
  Block& b = *f->blk; Region* r = nullptr; const unsigned char* p = (const unsigned char*)p0;
  for (auto& x : b.sreg) if (p < x.lo + x.n && p + n > x.lo) { r = &x; break; }
  if (!r) for (auto& x : g_glob) {
    if (p < x.lo + x.n && p + n > x.lo) { r = &x; break; }
#ifndef EMU_ASAN
    if (p < x.lo + x.n + RZ && p + n > x.lo - 1024) { error("out-of-bounds", "%s of %zu bytes at offset %td of a %zu-byte global buffer, block %u thread %d pc %p", write ? "write" : "read", n, p - x.lo, x.n, b.lin, f->lin, pc); return; }
#endif
  }
  if (!r) { if (b.dyn && p + n > b.dyn - SGUARD && p < b.dyn + b.dynn + SGUARD) error("out-of-bounds", "%s at offset %td of %zu bytes of shared memory pc %p", write ? "write" : "read", p - b.dyn, b.dynn, pc); return; }
  if (p < r->lo || p + n > r->lo + r->n) { error("out-of-bounds", "%s of %zu bytes at offset %td of a %zu-byte %s buffer, block %u thread %d pc %p", write ? "write" : "read", n, p - r->lo, r->n, r->name, b.lin, f->lin, pc); return; }
  b.s.accesses++;
  if (cfg.profile && !atomic) { auto& o = b.occ[f->lin][pc]; auto& e = b.prof[{f->warp->id, pc, o++}]; e.mask |= 1u << f->lane; e.n = (uint8_t)n; e.write = write; e.shared = r->shared; e.pc = pc; e.a[f->lane] = a; }
  if (!cfg.race || !r->sh) return;
  uint32_t me = (r->shared ? 0 : b.lin * b.nthr) + f->lin + 1, base = r->shared ? 1 : b.lin * b.nthr + 1, clk = f->vc[f->lin];
  size_t off = p - r->lo;
  auto ordered = [&](uint32_t who, uint32_t c) { who &= ~ATOM; if (!who || who == me) return true; if (who < base || who >= base + b.nthr) return false; return f->vc[who - base] >= c; };
  for (size_t i = 0; i < n; i++) {
    Cell& c = r->sh[off + i];
    if (!write && r->shared && !c.w) { error("uninit", "read of unwritten shared memory offset %zu, block %u thread %d pc %p", off + i, b.lin, f->lin, pc); return; }
    bool aw = (c.w & ATOM) != 0;
    if (c.w && !(atomic && aw) && !ordered(c.w, c.wc)) { race_report(b, *r, off + i, me, c.w & ~ATOM, write, true, pc); return; }
    if (write) {
      if (c.r1 && !ordered(c.r1, c.r1c)) { race_report(b, *r, off + i, me, c.r1, true, false, pc); return; }
      if (c.r2 && !ordered(c.r2, c.r2c)) { race_report(b, *r, off + i, me, c.r2, true, false, pc); return; }
      c.w = me | (atomic ? ATOM : 0); c.wc = clk; c.r1 = c.r2 = 0;
    } else {
      // r1: latest reader; r2: latest reader from another warp (or block)
      if (c.r1 && c.r1 != me && ((c.r1 - base) >> 5) != ((me - base) >> 5)) { c.r2 = c.r1; c.r2c = c.r1c; }
      c.r1 = me; c.r1c = clk;
    }
  }
}
static inline void align_check(const void* p, size_t n) { if ((uintptr_t)p & (n - 1)) error("misaligned", "%zu-byte access at %p, block %u thread %d", n, p, cur->blk->lin, cur->lin); }
void vload(void* d, const void* p, size_t n) { align_check(p, n); access(p, n, false, false, __builtin_return_address(0)); if (n == 16) memcpy(d, p, 16); else memcpy(d, p, n); }
void vstore(void* p, const void* v, size_t n) { align_check(p, n); access(p, n, true, false, __builtin_return_address(0)); if (n == 4) memcpy(p, v, 4); else if (n == 16) memcpy(p, v, 16); else memcpy(p, v, n); }

// ------------------------------------------------------------ profile
static uint64_t wavefronts(const Block::Prof& e) {
  int per = e.n >= 16 ? 8 : e.n == 8 ? 16 : 32; uint64_t tot = 0;
  for (int s = 0; s < 32; s += per) {
    std::set<uintptr_t> words[32]; bool any = false;
    for (int l = s; l < s + per; l++) if (e.mask >> l & 1) { any = true; for (int k = 0; k < std::max<int>(e.n, 4); k += 4) { uintptr_t w = (e.a[l] + k) >> 2; words[w & 31].insert(w); } }
    if (!any) continue;
    size_t m = 1; for (auto& x : words) m = std::max(m, x.size()); tot += m;
  }
  return tot;
}
static void flush_profile(Block& b) {
  std::lock_guard<std::mutex> l(g_mu);
  for (auto& kv : b.prof) { auto& e = kv.second; Agg& g = g_agg[e.pc]; g.shared = e.shared; g.write = e.write; g.req++;
    int lanes = __builtin_popcount(e.mask); g.bytes += (uint64_t)lanes * e.n;
    if (e.shared) { uint64_t w = wavefronts(e); g.wave += w; g.ideal += std::max<uint64_t>(1, ((uint64_t)lanes * e.n + 127) / 128); b.s.sm_req++; b.s.sm_wave += w; }
    else { std::set<uintptr_t> s; for (int i = 0; i < 32; i++) if (e.mask >> i & 1) for (int k = 0; k < e.n; k += 4) s.insert((e.a[i] + k) >> 5); g.wave += s.size(); g.ideal += std::max<uint64_t>(1, ((uint64_t)lanes * e.n + 31) / 32); b.s.gl_req++; b.s.gl_sector += s.size(); b.s.gl_bytes += (uint64_t)lanes * e.n; } }
  b.prof.clear(); for (auto& o : b.occ) o.clear();
}
void print_profile(FILE* o) {
  fprintf(o, "%-18s %-6s %-5s %10s %12s %12s  ratio\n", "pc", "space", "rw", "requests", "waves/sect", "ideal");
  for (auto& kv : g_agg) { auto& g = kv.second; if (g.req < 4) continue; fprintf(o, "%-18p %-6s %-5s %10lu %12lu %12lu  %.2f\n", kv.first, g.shared ? "shared" : "global", g.write ? "write" : "read", g.req, g.wave, g.ideal, (double)g.wave / g.ideal); }
}

// ------------------------------------------------------------ cp.async
void cp_async(void* d, const void* s, int n, bool pred) {
  Fiber* f = cur; Block& b = *f->blk; b.s.cp_bytes += pred ? n : 0;
  if (((uintptr_t)d | (pred ? (uintptr_t)s : 0)) & (n - 1)) error("misaligned", "cp.async dst %p src %p", d, s);
  if (!in_smem(b, d, n)) { error("out-of-bounds", "cp.async destination %p outside shared memory (dyn %p + %zu), block %u thread %d", d, b.dyn, b.dynn, b.lin, f->lin); return; }
  access(d, n, true, false, __builtin_return_address(0));
  if (pred && cfg.profile) access(s, n, false, false, (const char*)__builtin_return_address(0) + 1);
  memset(d, 0xFF, n);                                     // undefined until the wait
  f->cp->q.push_back({(unsigned char*)d, (const unsigned char*)s, n, pred});
}
void cp_commit() { Fiber* f = cur; f->cp->ends.push_back(f->cp->q.size()); }
void cp_wait(int keep) {
  Fiber* f = cur; CpGroup* g = f->cp; 
  bool prof = cfg.profile; cfg.profile = false;
  size_t groups = g->ends.size(); size_t upto = groups > (size_t)keep ? groups - keep : 0;
  for (; g->ghead < upto; g->ghead++) for (; g->head < g->ends[g->ghead]; g->head++) {
    CpOp& o = g->q[g->head];
    if (o.pred) { access(o.src, o.n, false, false, __builtin_return_address(0)); memcpy(o.dst, o.src, o.n); } else memset(o.dst, 0, o.n);
    access(o.dst, o.n, true, false, __builtin_return_address(0));
  }
  cfg.profile = prof;
  if (g->head == g->q.size() && g->ghead == groups) { g->q.clear(); g->ends.clear(); g->head = g->ghead = 0; }
}

// ------------------------------------------------------------ ldmatrix / mma
static void ldm_check(void** p, int nmat) {
  Block& b = *cur->blk;
  for (int l = 0; l < nmat * 8; l++) { const void* a = ((LdmOp*)p[l])->addr;
    if ((uintptr_t)a & 15) error("misaligned", "ldmatrix row address %p lane %d", a, l);
    if (!in_smem(b, a, 16)) { error("out-of-bounds", "ldmatrix row address %p of lane %d outside shared memory, block %u warp %d", a, l, b.lin, cur->warp->id); } }
  if (cfg.race || cfg.profile) { Fiber* me = cur;
    for (int l = 0; l < nmat * 8; l++) {                 // lane l's row is read by 8 lanes; charge lane l (same warp)
      cur = &b.f[me->warp->id * 32 + l]; access(((LdmOp*)p[l])->addr, 16, false, false, (void*)(uintptr_t)(0x1000 + nmat)); }
    cur = me; }
}
template <int NM, bool TR> static inline void ldm(void** p) {
  ldm_check(p, NM);
  for (int m = 0; m < NM; m++) {
    const uint16_t* row[8]; for (int r = 0; r < 8; r++) row[r] = (const uint16_t*)((LdmOp*)p[m * 8 + r])->addr;
    for (int l = 0; l < 32; l++) {
      uint32_t v;
      if (!TR) memcpy(&v, row[l >> 2] + 2 * (l & 3), 4);
      else v = (uint32_t)row[2 * (l & 3)][l >> 2] | ((uint32_t)row[2 * (l & 3) + 1][l >> 2] << 16);
      ((LdmOp*)p[l])->r[m] = v;
    }
  }
}
void ldm4_fn(void** p, uint32_t) { ldm<4, false>(p); }
void ldm4t_fn(void** p, uint32_t) { ldm<4, true>(p); }
void ldm2_fn(void** p, uint32_t) { ldm<2, false>(p); }
void ldm2t_fn(void** p, uint32_t) { ldm<2, true>(p); }

template <class Cvt> static inline void mma_k16(void** p, Cvt cvt) {
  alignas(64) float A[16][16], B[16][8], D[16][8];
  for (int l = 0; l < 32; l++) {
    MmaOp* o = (MmaOp*)p[l]; int g = l >> 2, t = l & 3;
    auto put = [&](uint32_t v, int r, int c) { A[r][c] = cvt((uint16_t)v); A[r][c + 1] = cvt((uint16_t)(v >> 16)); };
    put(o->a[0], g, 2 * t); put(o->a[1], g + 8, 2 * t); put(o->a[2], g, 2 * t + 8); put(o->a[3], g + 8, 2 * t + 8);
    B[2 * t][g] = cvt((uint16_t)o->b0); B[2 * t + 1][g] = cvt((uint16_t)(o->b0 >> 16));
    B[2 * t + 8][g] = cvt((uint16_t)o->b1); B[2 * t + 9][g] = cvt((uint16_t)(o->b1 >> 16));
    D[g][2 * t] = o->d[0]; D[g][2 * t + 1] = o->d[1]; D[g + 8][2 * t] = o->d[2]; D[g + 8][2 * t + 1] = o->d[3];
  }
  if (!cfg.mma_rz) {
    typedef float v8 __attribute__((vector_size(32)));
    for (int i = 0; i < 16; i++) { v8 s; memcpy(&s, D[i], 32); for (int k = 0; k < 16; k++) { v8 bb; memcpy(&bb, B[k], 32); s += A[i][k] * bb; } memcpy(D[i], &s, 32); }
  } else {
    for (int i = 0; i < 16; i++) for (int j = 0; j < 8; j++) { double s = D[i][j]; for (int k = 0; k < 16; k++) s += (double)A[i][k] * B[k][j];
      float f = (float)s; if (fabs((double)f) > fabs(s)) f = nextafterf(f, 0.0f); D[i][j] = f; }
  }
  for (int l = 0; l < 32; l++) { MmaOp* o = (MmaOp*)p[l]; int g = l >> 2, t = l & 3; o->d[0] = D[g][2 * t]; o->d[1] = D[g][2 * t + 1]; o->d[2] = D[g + 8][2 * t]; o->d[3] = D[g + 8][2 * t + 1]; }
}
void mma_bf16_fn(void** p, uint32_t) { mma_k16(p, [](uint16_t h) { return bf2f(h); }); }

// ------------------------------------------------------------ launch
Block::~Block() { for (auto& r : sreg) free(r.sh); for (auto& s : st) free(s.p); if (dyn) free(dyn - SGUARD); if (stacks) munmap(stacks, stknum * (stk + GUARD)); }
static void run_block(Block& b, dim3 bd) {
  int n = b.nthr; b.nwarp = (n + 31) / 32; b.live = n; b.warps_ready = 0; b.dead = false; b.red = b.redn = 0;
  for (auto& s : b.bar) s = Bar();
  if ((int)b.f.size() != n) { b.f.assign(n, Fiber()); b.cps.resize(n); if (cfg.race) b.vcs.assign((size_t)n * n, 0); b.occ.resize(n); }
  if (cfg.race) { b.vcs.assign((size_t)n * n, 0); }
  if (cfg.profile) b.occ.resize(n);
  for (auto& r : b.sreg) free(r.sh);
  b.sreg.clear();
  for (auto& s : b.st) s.fresh = false;
  if (b.dynn) { memset(b.dyn, 0xFF, b.dynn); b.sreg.push_back({b.dyn, b.dynn, cfg.race ? (Cell*)calloc(b.dynn, sizeof(Cell)) : nullptr, true, "shared"}); }
  for (int w = 0; w < b.nwarp; w++) { Warp& W = b.w[w]; int c = std::min(32, n - w * 32); W.id = w; W.full = c == 32 ? ~0u : (1u << c) - 1; W.exited = 0; W.ready = 0; for (auto& k : W.coll) k.arrived = 0; set_ready(b, w, W.full); }
  for (int i = 0; i < n; i++) {
    Fiber& f = b.f[i]; f.lin = (uint16_t)i; f.lane = i & 31; f.warp = &b.w[i >> 5]; f.blk = &b; f.state = 0; f.where = "start";
    f.tid = {i % bd.x, (i / bd.x) % bd.y, i / (bd.x * bd.y)};
    f.stk = b.stacks + (size_t)i * (b.stk + GUARD) + GUARD; f.stksz = b.stk; f.fake = nullptr;
    f.cp = &b.cps[i]; f.cp->q.clear(); f.cp->ends.clear(); f.cp->head = f.cp->ghead = 0;
    if (cfg.race) { f.vc = &b.vcs[(size_t)i * n]; f.vc[i] = 1; }
    char* top = f.stk + f.stksz - 64 - (size_t)((i * 17 * 64) & 4095);       // colour the stacks over the cache sets
    top = (char*)((uintptr_t)top & ~(uintptr_t)63);
#ifdef EMU_USE_UCONTEXT
    if (!f.sp) f.sp = new Ctx; Ctx* c = (Ctx*)f.sp; getcontext(&c->u); c->u.uc_stack.ss_sp = f.stk; c->u.uc_stack.ss_size = top - f.stk; c->u.uc_link = nullptr; makecontext(&c->u, (void (*)())emu_fiber_entry, 0);
#else
    void** s = (void**)top; *--s = nullptr; *--s = (void*)emu_tramp; for (int k = 0; k < 6; k++) *--s = nullptr; f.sp = s;
#endif
  }
  b.s.threads += n;
#ifdef EMU_USE_UCONTEXT
  if (!b.main.sp) b.main.sp = new Ctx;
#endif
#ifdef EMU_ASAN
  { const void* bot; size_t sz; pthread_attr_t at; pthread_getattr_np(pthread_self(), &at); void* sa; pthread_attr_getstack(&at, &sa, &sz); bot = sa; b.main.stk = (char*)bot; b.main.stksz = sz; pthread_attr_destroy(&at); }
#endif
  Fiber* first = pick(b, 0);
  b.s.switches++;
#ifdef EMU_ASAN
  __sanitizer_start_switch_fiber(&b.main.fake, first->stk, first->stksz);
#endif
  cur = first; ctx_switch(&b.main, first); cur = nullptr;
#ifdef EMU_ASAN
  __sanitizer_finish_switch_fiber(b.main.fake, nullptr, nullptr);
#endif
  if (b.live) {
    std::map<std::string, int> at; for (auto& f : b.f) if (f.state == 1) at[f.where]++;
    std::string t; for (auto& k : at) t += " " + std::to_string(k.second) + " at " + k.first + ";";
    error("deadlock", "block %u: %d threads cannot proceed:%s", b.lin, b.live, t.c_str());
  }
  if (cfg.profile) flush_profile(b);
}
void run(dim3 g, dim3 bd, size_t smem, void (*thunk)(void*), void* args) {
  uint64_t nb = (uint64_t)g.x * g.y * g.z; int nthr = bd.x * bd.y * bd.z;
  if (nthr < 1 || nthr > 1024 || smem > 227 * 1024) { error("launch", "bad configuration: %d threads, %zu bytes of shared memory", nthr, smem); return; }
  if (g.y > 65535 || g.z > 65535) { error("launch", "grid.y/z above 65535"); return; }
  if (cfg.race) for (auto& r : g_glob) { if (!r.sh) r.sh = (Cell*)calloc(r.n + 1, sizeof(Cell)); else memset(r.sh, 0, r.n * sizeof(Cell)); }
  int nt = (cfg.race || cfg.profile) ? 1 : std::max(1, cfg.os_threads); if ((uint64_t)nt > nb) nt = (int)nb;
  std::vector<uint32_t> order(nb); for (uint64_t i = 0; i < nb; i++) order[i] = (uint32_t)i;
  if (cfg.order == Order::Descending) std::reverse(order.begin(), order.end());
  if (cfg.order == Order::Random) { uint64_t s = cfg.seed * 0x9E3779B97F4A7C15ull + 1; for (uint64_t i = nb; i > 1; i--) { s ^= s << 13; s ^= s >> 7; s ^= s << 17; std::swap(order[i - 1], order[s % i]); } }
  std::atomic<uint64_t> next{0};
  auto work = [&]() {
    static thread_local Block tb; Block& b = tb;
    b.nthr = nthr; b.thunk = thunk; b.args = args; b.s = Stats{};
    if (b.stknum < (size_t)nthr) {
      if (b.stacks) munmap(b.stacks, b.stknum * (b.stk + GUARD));
      b.stk = STK; b.stknum = nthr;
      b.stacks = (char*)mmap(nullptr, b.stknum * (STK + GUARD), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      for (size_t i = 0; i < b.stknum; i++) mprotect(b.stacks + i * (STK + GUARD), GUARD, PROT_NONE);
    }
    if (b.dyn) free(b.dyn - SGUARD);
    b.dyn = smem ? aligned(smem + 2 * SGUARD) + SGUARD : nullptr; b.dynn = smem;
    for (;;) { uint64_t i = next++; if (i >= nb) break; uint32_t bl = order[i]; b.lin = bl; b.rng = (cfg.seed + 1) * 0x9E3779B97F4A7C15ull ^ (bl * 0xD1B54A32D192ED03ull) | 1;
      idx.blockIdx = {bl % g.x, (bl / g.x) % g.y, bl / (g.x * g.y)}; idx.blockDim = bd; idx.gridDim = g; run_block(b, bd); }
    std::lock_guard<std::mutex> l(g_mu);
    uint64_t* d = (uint64_t*)&stats; uint64_t* s = (uint64_t*)&b.s; for (size_t k = 0; k < sizeof(Stats) / 8; k++) d[k] += s[k];
  };
  if (nt == 1) work(); else { std::vector<std::thread> ts; for (int i = 0; i < nt; i++) ts.emplace_back(work); for (auto& t : ts) t.join(); }
}
}  // namespace anneal::simt

// ------------------------------------------------------------ hooks: kernel objects are compiled with
// -fsanitize=thread but libtsan is NOT linked; every load/store of the kernel lands here.
#ifdef EMU_HOOKS
#define PC __builtin_return_address(0)
#define RW(n) \
  extern "C" void __tsan_read##n(void* p) { anneal::simt::access(p, n, false, false, PC); } \
  extern "C" void __tsan_write##n(void* p) { anneal::simt::access(p, n, true, false, PC); } \
  extern "C" void __tsan_unaligned_read##n(void* p) { anneal::simt::access(p, n, false, false, PC); } \
  extern "C" void __tsan_unaligned_write##n(void* p) { anneal::simt::access(p, n, true, false, PC); }
RW(1) RW(2) RW(4) RW(8) RW(16)
extern "C" void __tsan_read_range(void* p, unsigned long n) { anneal::simt::access(p, n, false, false, PC); }
extern "C" void __tsan_write_range(void* p, unsigned long n) { anneal::simt::access(p, n, true, false, PC); }
extern "C" void __tsan_vptr_update(void**, void*) {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_init() {}
extern "C" void* __tsan_memcpy(void* d, const void* s, size_t n) { anneal::simt::access(s, n, false, false, PC); anneal::simt::access(d, n, true, false, PC); return memcpy(d, s, n); }
extern "C" void* __tsan_memset(void* d, int v, size_t n) { anneal::simt::access(d, n, true, false, PC); return memset(d, v, n); }
extern "C" uint32_t __tsan_atomic32_load(const volatile uint32_t* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
extern "C" uint64_t __tsan_atomic64_load(const volatile uint64_t* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
extern "C" uint16_t __tsan_atomic16_load(const volatile uint16_t* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
extern "C" uint8_t __tsan_atomic8_load(const volatile uint8_t* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
extern "C" int __tsan_atomic32_compare_exchange_strong(volatile uint32_t* p, uint32_t* e, uint32_t v, int, int) { return __atomic_compare_exchange_n(p, e, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); }
extern "C" int __tsan_atomic64_compare_exchange_strong(volatile uint64_t* p, uint64_t* e, uint64_t v, int, int) { return __atomic_compare_exchange_n(p, e, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); }
#endif
