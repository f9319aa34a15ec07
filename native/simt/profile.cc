// Bank conflicts and coalescing. The k-th execution of an instruction by each lane of a warp is taken as one request of the warp.
#include "profile.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <deque>
#include <unordered_map>

namespace anneal::simt {
namespace {

// Of one instruction, summed over all launches: what it took (cycles of shared memory, or sectors of 32 bytes) and the least it could have.
struct SiteCounts {
  uint64_t requests = 0, taken = 0, ideal = 0;
  bool write = false, shared = false;
};
// An instruction in one space: cp.async reads one and writes the other.
using AccessSite = std::pair<const void*, bool>;
struct KernelCounts {
  uint64_t launches = 0;
  Counts counts;
  std::map<AccessSite, SiteCounts> sites;
};
struct Totals {
  std::mutex mutex;
  std::map<const void*, KernelCounts> kernels;
  std::map<const void*, std::string> places;
  std::string file;
  bool changed = false;
};
Totals& totals() {
  static Totals* const all = new Totals;
  return *all;
}

}  // namespace

#if defined(ANNEAL_SIMT_HOOKS)

namespace {

struct Request {
  uint32_t lanes = 0;
  uintptr_t address[32];
};
struct WarpSite {
  uint32_t done[32] = {};  // how often each lane has executed it
  uint32_t first = 0;      // the number of the first request that is still open
  std::deque<Request> open;
  size_t bytes = 0;
  bool write = false, shared = false;
};

size_t distinct(std::vector<uintptr_t>& values) {
  std::sort(values.begin(), values.end());
  return std::unique(values.begin(), values.end()) - values.begin();
}

// Shared memory serves 32 words a cycle, one of each bank, and wide accesses in parts: 8 lanes of 16 bytes, 16 of 8.
void count_shared(const Request& request, size_t bytes, SiteCounts& counts) {
  const int lanes_at_once = bytes >= 16 ? 8 : bytes == 8 ? 16 : 32;
  for (int first = 0; first < 32; first += lanes_at_once) {
    std::vector<uintptr_t> banks[32];
    bool any = false;
    for (int lane = first; lane < first + lanes_at_once; ++lane) {
      if (!(request.lanes >> lane & 1)) continue;
      any = true;
      for (size_t k = 0; k < std::max<size_t>(bytes, 4); k += 4) {
        const uintptr_t word = (request.address[lane] + k) >> 2;
        banks[word & 31].push_back(word);
      }
    }
    if (!any) continue;
    size_t most = 1;
    for (auto& bank : banks) most = std::max(most, distinct(bank));
    counts.taken += most;
    ++counts.ideal;
  }
}

void count_global(const Request& request, size_t bytes, SiteCounts& counts) {
  std::vector<uintptr_t> sectors, touched;
  for (int lane = 0; lane < 32; ++lane) {
    if (!(request.lanes >> lane & 1)) continue;
    for (size_t k = 0; k < bytes; ++k) touched.push_back(request.address[lane] + k);
    for (size_t k = 0; k < bytes; k += std::min<size_t>(bytes, 4)) sectors.push_back((request.address[lane] + k) >> 5);
  }
  counts.taken += distinct(sectors);
  counts.ideal += std::max<size_t>(1, (distinct(touched) + 31) / 32);
}

}  // namespace

struct SiteHash {
  size_t operator()(const AccessSite& site) const { return reinterpret_cast<size_t>(site.first) * 2 + site.second; }
};

class BlockProfile {
 public:
  bool complete = false;  // a block that failed leaves requests behind
  std::unordered_map<AccessSite, WarpSite, SiteHash> sites[32];
  std::map<AccessSite, SiteCounts> counts;

  void finish(AccessSite key, const WarpSite& site, const Request& request) {
    SiteCounts& sum = counts[key];
    sum.write = site.write;
    sum.shared = site.shared;
    ++sum.requests;
    if (site.shared) count_shared(request, site.bytes, sum);
    else count_global(request, site.bytes, sum);
  }
};

void profile_begin(Block& block) {
  if (block.launch->settings.profile.empty()) block.profile.reset();
  else if (!block.profile || !block.profile->complete) block.profile = std::make_shared<BlockProfile>();
  if (block.profile) block.profile->complete = false;
}

void profile_access(Fiber& fiber, const void* address, size_t bytes, bool write, bool shared, const void* pc) {
  Block& block = *fiber.block;
  WarpSite& site = block.profile->sites[fiber.warp->index][{pc, shared}];
  site.bytes = bytes;
  site.write = write;
  site.shared = shared;
  const uint32_t number = site.done[fiber.lane]++;
  while (number - site.first >= site.open.size()) site.open.emplace_back();
  Request& request = site.open[number - site.first];
  request.lanes |= 1u << fiber.lane;
  request.address[fiber.lane] = reinterpret_cast<uintptr_t>(address);
  while (!site.open.empty() && site.open.front().lanes == fiber.warp->members) {
    block.profile->finish({pc, shared}, site, site.open.front());
    site.open.pop_front();
    ++site.first;
  }
}

void profile_end(Block& block) {
  if (!block.profile) return;
  block.profile->complete = true;
  for (auto& warp : block.profile->sites) {
    for (auto& [key, site] : warp)
      for (auto& request : site.open) block.profile->finish(key, site, request);
    warp.clear();
  }
  std::lock_guard lock(totals().mutex);
  auto& sites = totals().kernels[block.launch->kernel].sites;
  for (auto& [key, counts] : block.profile->counts) {
    SiteCounts& sum = sites[key];
    sum.requests += counts.requests;
    sum.taken += counts.taken;
    sum.ideal += counts.ideal;
    sum.write = counts.write;
    sum.shared = counts.shared;
  }
  block.profile->counts.clear();
}

#endif

void profile_launch(const Launch& launch) {
  if (launch.settings.profile.empty()) return;
  std::lock_guard lock(totals().mutex);
  KernelCounts& kernel = totals().kernels[launch.kernel];
  ++kernel.launches;
  kernel.counts.add(launch.counts);
  totals().file = launch.settings.profile;
  totals().changed = true;
}

void write_profile() {
  std::lock_guard lock(totals().mutex);
  if (!totals().changed) return;
  totals().changed = false;
  std::string path = totals().file;
  if (const size_t at = path.find("%p"); at != std::string::npos) path.replace(at, 2, std::to_string(getpid()));
  std::map<const void*, std::string>& places = totals().places;
  std::vector<const void*> unknown;
  for (auto& [function, kernel] : totals().kernels)
    for (auto& [key, site] : kernel.sites)
      if (places.try_emplace(key.first).second) unknown.push_back(key.first);
  const std::vector<std::string> found = locate(unknown);
  for (size_t i = 0; i < unknown.size(); ++i) places[unknown[i]] = found[i];
  FILE* file = std::fopen(path.c_str(), "w");
  if (!file) {
    std::fprintf(stderr, "ANNEAL_SIMT_PROFILE: cannot write %s\n", path.c_str());
    return;
  }
  std::fprintf(file, "{\"kernels\": [");
  const char* comma = "";
  for (auto& [function, kernel] : totals().kernels) {
    const Counts& c = kernel.counts;
    auto n = [](uint64_t value) { return static_cast<unsigned long long>(value); };
    std::fprintf(file,
                 "%s\n  {\"kernel\": \"%s\", \"launches\": %llu, \"blocks\": %llu, \"threads\": %llu, \"barriers\": %llu, \"shuffles\": %llu, \"ldmatrix\": %llu, "
                 "\"mma\": %llu, \"asyncBytes\": %llu, \"sharedBytes\": %llu, \"globalBytes\": %llu, \"sites\": [",
                 comma, kernel_name(function).c_str(), n(kernel.launches), n(c.blocks), n(c.threads), n(c.barriers), n(c.shuffles), n(c.ldmatrix), n(c.mma), n(c.async_bytes),
                 n(c.shared_bytes), n(c.global_bytes));
    comma = ",";
    const char* inner = "";
    for (auto& [key, site] : kernel.sites) {
      std::fprintf(file, "%s\n    {\"site\": \"%s\", \"space\": \"%s\", \"access\": \"%s\", \"requests\": %llu, \"%s\": %llu, \"ideal\": %llu, \"ratio\": %.3f}", inner,
                   places[key.first].c_str(), site.shared ? "shared" : "global", site.write ? "write" : "read", n(site.requests), site.shared ? "wavefronts" : "sectors",
                   n(site.taken), n(site.ideal), static_cast<double>(site.taken) / static_cast<double>(site.ideal));
      inner = ",";
    }
    std::fprintf(file, "]}");
  }
  std::fprintf(file, "\n]}\n");
  std::fclose(file);
}

// The process may end without closing its device.
static const bool written_at_exit = (std::atexit(write_profile), true);

}  // namespace anneal::simt
