// What the emulator found, in words: names of kernels and places of the source.
#include <cxxabi.h>
#include <dlfcn.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "block.h"

namespace anneal::simt {
namespace {

void remove_all(std::string& text, const std::string& part) {
  for (size_t at; (at = text.find(part)) != std::string::npos;) text.erase(at, part.size());
}

const char* base_name(const char* path) {
  const char* slash = std::strrchr(path, '/');
  return slash ? slash + 1 : path;
}

// "fill_kernel<float>" of a function's demangled name.
std::string short_name(const char* symbol) {
  int status = 0;
  char* demangled = abi::__cxa_demangle(symbol, nullptr, nullptr, &status);
  std::string name = demangled ? demangled : symbol;
  std::free(demangled);
  int depth = 0;
  for (size_t i = 0; i < name.size(); ++i) {
    depth += name[i] == '<' ? 1 : name[i] == '>' ? -1 : 0;
    if (name[i] == '(' && depth == 0 && name.compare(i, 21, "(anonymous namespace)") != 0) {
      name.erase(i);
      break;
    }
  }
  if (name.compare(0, 5, "void ") == 0) name.erase(0, 5);
  remove_all(name, "anneal::cuda::");
  remove_all(name, "anneal::");
  return name;
}

// Of the chain of inlined functions at one address, innermost first: the line of the kernel's file and, if it is another, the innermost of a header.
std::string choose(const std::vector<std::string>& frames) {
  std::string inner, outer;
  for (auto& frame : frames) {
    const size_t colon = frame.rfind(':');
    const std::string file = frame.substr(0, colon);
    if (frame.find("?") != std::string::npos || file.find("native/simt/") != std::string::npos || file.find("/usr/") == 0) continue;
    const std::string place = base_name(frame.c_str());
    if (inner.empty()) inner = place;
    if (outer.empty() && file.size() > 3 && file.compare(file.size() - 3, 3, ".cu") == 0) outer = place;
  }
  if (outer.empty()) return inner;
  return outer == inner ? outer : outer + " (" + inner + ")";
}

}  // namespace

std::string kernel_name(const void* kernel) {
  Dl_info info;
  if (!kernel || !dladdr(kernel, &info) || !info.dli_sname) return "a kernel";
  return short_name(info.dli_sname);
}

std::string format_site(Site site) { return site.line ? std::string(base_name(site.file)) + ":" + std::to_string(site.line) : std::string(); }

std::vector<std::string> locate(const std::vector<const void*>& pcs) {
  std::vector<std::string> places(pcs.size());
  std::map<std::string, std::vector<size_t>> by_library;
  std::vector<uintptr_t> offsets(pcs.size());
  for (size_t i = 0; i < pcs.size(); ++i) {
    // A return address points behind the call.
    const char* pc = static_cast<const char*>(pcs[i]) - 1;
    Dl_info info;
    if (!pcs[i] || !dladdr(pc, &info) || !info.dli_fname) continue;
    offsets[i] = reinterpret_cast<uintptr_t>(pc) - reinterpret_cast<uintptr_t>(info.dli_fbase);
    char offset[32];
    std::snprintf(offset, sizeof offset, "+0x%zx", static_cast<size_t>(pc - static_cast<const char*>(info.dli_saddr ? info.dli_saddr : info.dli_fbase)));
    places[i] = (info.dli_sname ? short_name(info.dli_sname) : base_name(info.dli_fname)) + std::string(offset);
    by_library[info.dli_fname].push_back(i);
  }
  for (auto& [library, indices] : by_library) {
    // In batches, as a command line has a limit. Where addr2line is missing the names stay as they are.
    for (size_t first = 0; first < indices.size(); first += 200) {
      std::string command = "addr2line -a -i -e '" + library + "'";
      const size_t last = std::min(indices.size(), first + 200);
      for (size_t k = first; k < last; ++k) {
        char text[32];
        std::snprintf(text, sizeof text, " 0x%zx", static_cast<size_t>(offsets[indices[k]]));
        command += text;
      }
      FILE* output = popen((command + " 2>/dev/null").c_str(), "r");
      if (!output) continue;
      std::vector<std::vector<std::string>> frames;
      char line[4096];
      while (std::fgets(line, sizeof line, output)) {
        std::string text(line, std::strcspn(line, "\n"));
        if (text.compare(0, 2, "0x") == 0) frames.emplace_back();
        else if (!frames.empty()) frames.back().push_back(text.substr(0, text.find(" (")));
      }
      pclose(output);
      for (size_t k = 0; k < frames.size() && first + k < last; ++k) {
        std::string place = choose(frames[k]);
        if (!place.empty()) places[indices[first + k]] = place;
      }
    }
  }
  return places;
}

void Launch::find(Finding finding) {
  std::lock_guard lock(mutex);
  failed = true;
  if (findings.size() < 8) findings.push_back(std::move(finding));
}

void fail(const char* kind, const char* format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  current_fiber()->block->launch->find({kind, text});
  abandon();
}

std::string describe(const Launch& launch) {
  std::vector<const void*> pcs;
  for (auto& finding : launch.findings) pcs.insert(pcs.end(), {finding.pc, finding.other_pc});
  const std::vector<std::string> places = locate(pcs);
  std::string text = "in " + kernel_name(launch.kernel);
  for (size_t i = 0; i < launch.findings.size(); ++i) {
    std::string finding = launch.findings[i].text;
    // The places stand where the text has @ (the access) and & (the earlier one).
    for (size_t k = 0; k < 2; ++k) {
      const size_t at = finding.find(k == 0 ? '@' : '&');
      if (at != std::string::npos) finding.replace(at, 1, "at " + (places[2 * i + k].empty() ? "an unknown place" : places[2 * i + k]));
    }
    text += (i ? "; " : ": ") + launch.findings[i].kind + ": " + finding;
  }
  return text;
}

}  // namespace anneal::simt
