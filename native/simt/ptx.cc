#include "ptx.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <sstream>

#include "ptx_assembler.h"

namespace anneal::simt::ptx {

namespace {

// The files of the folder: read when they are first asked for, an entry assembled when it is first run.
class Library {
 public:
  explicit Library(const std::string& folder) : folder_(folder) {
    std::error_code error;
    for (auto& file : std::filesystem::directory_iterator(folder, error))
      if (file.path().extension() == ".ptx") read(file.path());
    if (files_.empty()) fail("ANNEAL_SIMT_PTX names %s, where there are no .ptx files; write them with node scripts/build-ptx.js", folder.c_str());
  }

  const Program& program(const std::string& name) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (auto found = programs_.find(name); found != programs_.end()) return found->second;
    auto file = entries_.find(name);
    if (file == entries_.end()) fail("no .ptx file of %s has the entry %s", folder_.c_str(), name.c_str());
    File& source = files_[file->second];
    if (!source.module) {
      source.module = std::make_shared<const Module>(parse(source.text, source.path));
      source.text.clear();
    }
    return programs_.emplace(name, assemble(source.module, name)).first->second;
  }

 private:
  struct File {
    std::string path, text;
    std::shared_ptr<const Module> module;
  };
  void read(const std::filesystem::path& path) {
    std::ifstream stream(path);
    std::stringstream text;
    text << stream.rdbuf();
    files_.push_back({path.filename().string(), text.str(), nullptr});
    const std::string& all = files_.back().text;
    const std::string mark = ".entry ";
    for (size_t at = all.find(mark); at != std::string::npos; at = all.find(mark, at)) {
      at += mark.size();
      entries_[all.substr(at, all.find_first_of("( \n", at) - at)] = files_.size() - 1;
    }
  }
  std::string folder_;
  std::vector<File> files_;
  std::map<std::string, size_t> entries_;
  std::map<std::string, Program> programs_;
  std::mutex mutex_;
};

const char* folder() {
  static const char* const folder = std::getenv("ANNEAL_SIMT_PTX");
  return folder;
}
Library& library() {
  static Library library(folder());
  return library;
}

std::vector<char> pack(const Program& program, const Argument* arguments, size_t count) {
  std::vector<char> parameters;
  for (size_t i = 0; i < count; ++i) {
    const Argument& argument = arguments[i];
    parameters.resize((parameters.size() + argument.alignment - 1) / argument.alignment * argument.alignment);
    parameters.insert(parameters.end(), static_cast<const char*>(argument.data), static_cast<const char*>(argument.data) + argument.bytes);
  }
  if (parameters.size() != program.parameter_bytes) fail("its parameters have %zu bytes in PTX and %zu on the host", program.parameter_bytes, parameters.size());
  return parameters;
}

}  // namespace

bool enabled() { return folder() != nullptr && *folder() != 0; }

void run_launch(Launch& launch, const Argument* arguments, size_t count) {
  try {
    Dl_info symbol{};
    if (!dladdr(launch.kernel, &symbol) || !symbol.dli_sname || symbol.dli_saddr != launch.kernel) fail("the kernel's symbol is not exported, so that its PTX cannot be found");
    const Program& program = library().program(symbol.dli_sname);
    const std::vector<char> parameters = pack(program, arguments, count);
    Machine machine(program, launch.grid, launch.block, launch.shared, parameters.data());
    machine.run();
  } catch (const Fault& fault) {
    launch.find({"ptx", fault.what()});
  }
}

}  // namespace anneal::simt::ptx
