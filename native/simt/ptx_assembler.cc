#include "ptx_assembler.h"

#include <algorithm>

namespace anneal::simt::ptx {

namespace {

// Modifiers that leave the result as it is here: the rounding that is the default, approximations, and hints.
bool is_silent(const std::string& modifier) {
  static const std::vector<std::string> silent{"rn", "approx", "full", "sync", "aligned", "uni", "to"};
  return std::find(silent.begin(), silent.end(), modifier) != silent.end();
}

struct Tables {
  Handlers handlers;
  Encoders encoders;
  Tables() {
    add_arithmetic(handlers);
    add_logic(handlers);
    add_moves(encoders);
    add_memory(encoders);
    add_warp(encoders);
  }
};
const Tables& tables() {
  static const Tables tables;
  return tables;
}

size_t round_up(size_t value, size_t to) { return (value + to - 1) / to * to; }

}  // namespace

void Assembler::error(const std::string& what) const {
  if (!statement_) fail("%s: %s", module_.path.c_str(), what.c_str());
  fail("%s:%d: %s: %s", module_.path.c_str(), statement_->line, statement_->text.c_str(), what.c_str());
}

uint32_t Assembler::new_row(int bytes) {
  size_t at = program_.registers.size();
  program_.registers.resize(at + std::max(64, bytes * lanes), static_cast<char>(0xff));
  return static_cast<uint32_t>(at);
}

uint32_t Assembler::constant(uint64_t bits, int bytes) {
  auto [found, added] = constants_.try_emplace({bits, bytes}, 0);
  if (!added) return found->second;
  found->second = new_row(bytes);
  char* row = program_.registers.data() + found->second;
  if (bytes == 0) {
    uint32_t mask = bits ? all_lanes : 0;
    std::memcpy(row, &mask, 4);
  } else {
    for (int lane = 0; lane < lanes; ++lane) std::memcpy(row + lane * bytes, &bits, bytes);
  }
  return found->second;
}

const Assembler::Binding* Assembler::find(const std::string& name) const {
  auto& scopes = frames_.back()->scopes;
  for (auto scope = scopes.rbegin(); scope != scopes.rend(); ++scope)
    if (auto found = scope->find(name); found != scope->end()) return &found->second;
  return nullptr;
}

// The address of a variable in its own space: shared and local memory count from 0, global memory is the host's.
uint64_t Assembler::address_of(const std::string& name) {
  if (auto found = shared_.find(name); found != shared_.end()) return found->second;
  if (auto found = globals_.find(name); found != globals_.end()) return found->second;
  auto variable = module_.variables.find(name);
  if (variable == module_.variables.end()) error("the name " + name + " is not known");
  if (variable->second.is_extern) error("the variable " + name + " is defined nowhere");
  std::unique_ptr<char[]> memory(new char[variable->second.bytes + 64]());
  char* begin = memory.get() + (64 - reinterpret_cast<uintptr_t>(memory.get()) % 64);
  std::copy(variable->second.initial.begin(), variable->second.initial.end(), begin);
  program_.variables.push_back({std::move(memory), reinterpret_cast<uint64_t>(begin), variable->second.bytes});
  return globals_[name] = reinterpret_cast<uint64_t>(begin);
}

uint32_t Assembler::row(const Operand& operand, int bytes) {
  if (operand.kind == Operand::Kind::number) return constant(bytes == 8 || bytes == 0 ? operand.bits : operand.bits & ((uint64_t{1} << 8 * bytes) - 1), bytes);
  if (operand.kind != Operand::Kind::name) error("an operand of another kind was expected");
  if (is_sink(operand)) return new_row(8);
  if (const Binding* binding = find(operand.name)) {
    if (binding->kind == Binding::Kind::reg) {
      if (binding->width != bytes) error(operand.name + " has " + std::to_string(binding->width) + " bytes where " + std::to_string(bytes) + " are expected");
      return binding->at;
    }
    return constant(binding->at + operand.bits + (binding->kind == Binding::Kind::param ? param_window : 0), bytes);
  }
  for (int which = 0; which < special_count; ++which)
    if (operand.name == special_names[which]) {
      if (bytes != 4) error(operand.name + " is read as " + std::to_string(bytes) + " bytes");
      auto [found, added] = special_.try_emplace(which, 0);
      if (added) {
        found->second = new_row(4);
        program_.special.push_back({found->second, which});
      }
      return found->second;
    }
  if (operand.name == "WARP_SZ") return constant(32, bytes);
  return constant(address_of(operand.name) + operand.bits, bytes);
}

int Assembler::width(const Operand& operand, int otherwise) {
  if (operand.kind != Operand::Kind::name || is_sink(operand)) return otherwise;
  const Binding* binding = find(operand.name);
  return binding && binding->kind == Binding::Kind::reg ? binding->width : otherwise;
}

void Assembler::address(const Operand& operand, Instruction& instruction, int index, const Statement& statement) {
  if (operand.kind != Operand::Kind::address) error("an address was expected");
  instruction.offset = static_cast<int64_t>(operand.bits);
  for (auto& modifier : statement.modifiers) {
    size_t colon = modifier.find(':');
    std::string name = modifier.substr(0, colon);
    if (name == "global" || name == "const") instruction.space = Space::global;
    if (name == "shared") instruction.space = Space::shared;
    if (name == "local") instruction.space = Space::local;
    if (name == "param") instruction.space = Space::param;
    if (instruction.space != Space::generic) break;
  }
  const Binding* binding = operand.name.empty() ? nullptr : find(operand.name);
  if (binding && binding->kind == Binding::Kind::reg) {
    instruction.at[index] = binding->at;
    instruction.width[index] = static_cast<uint8_t>(binding->width);
    return;
  }
  instruction.at[index] = constant(0, 8);
  instruction.width[index] = 8;
  if (binding) {
    instruction.offset += binding->at;
    instruction.space = binding->kind == Binding::Kind::local ? Space::local : Space::param;
  } else if (!operand.name.empty()) {
    instruction.offset += static_cast<int64_t>(address_of(operand.name));
  }
}

void Assembler::branch(const Operand& label, Instruction& instruction) {
  instruction.flow = Flow::branch;
  frames_.back()->branches.push_back({program_.code.size(), label.name});
}

int Assembler::table(const Operand& label) {
  program_.tables.emplace_back();
  frames_.back()->tables.push_back({static_cast<int>(program_.tables.size()) - 1, label.name});
  return static_cast<int>(program_.tables.size()) - 1;
}

void Assembler::declare(const Variable& variable) {
  if (variable.space == "shared") return;  // placed before the code
  size_t at = round_up(program_.local_bytes, variable.alignment);
  program_.local_bytes = round_up(at + variable.bytes, 16);
  frames_.back()->scopes.back()[variable.name] = {Binding::Kind::local, static_cast<uint32_t>(at), 0};
}

void Assembler::declare(const Statement& registers) {
  Type type = type_named(registers.name);
  if (type == Type::none) error("registers of type ." + registers.name);
  auto& scope = frames_.back()->scopes.back();
  for (auto& [name, count] : registers.registers) {
    if (count < 0) scope[name] = {Binding::Kind::reg, new_row(size_of(type)), size_of(type)};
    for (int i = 0; i < count; ++i) scope[name + std::to_string(i)] = {Binding::Kind::reg, new_row(size_of(type)), size_of(type)};
  }
}

// Gives every variable in shared memory that the function or those it calls mention a place; the dynamic part comes last.
void Assembler::place_shared(const Function& function, std::vector<const Function*>& seen) {
  if (std::find(seen.begin(), seen.end(), &function) != seen.end()) return;
  seen.push_back(&function);
  auto place = [&](const Variable& variable) {
    if (variable.space != "shared" || variable.is_extern || shared_.count(variable.name)) return;
    shared_[variable.name] = round_up(program_.shared_bytes, variable.alignment);
    program_.shared_bytes = shared_[variable.name] + variable.bytes;
  };
  std::function<void(const Operand&)> mention = [&](const Operand& operand) {
    for (auto& part : operand.parts) mention(part);
    if (auto found = module_.variables.find(operand.name); found != module_.variables.end()) place(found->second);
    if (auto found = module_.functions.find(operand.name); found != module_.functions.end()) place_shared(found->second, seen);
  };
  for (auto& statement : function.body) {
    if (statement.kind == Statement::Kind::variable) place(statement.variable);
    for (auto& operand : statement.operands) mention(operand);
  }
}

void Assembler::entry(const Function& function) {
  std::vector<const Function*> seen;
  place_shared(function, seen);
  for (auto& [name, variable] : module_.variables)
    if (variable.space == "shared" && variable.is_extern) program_.shared_bytes = round_up(program_.shared_bytes, variable.alignment);
  for (auto& [name, variable] : module_.variables)
    if (variable.space == "shared" && variable.is_extern) shared_[name] = program_.shared_bytes;
  Frame frame;
  frame.scopes.emplace_back();
  for (auto& parameter : function.parameters) {
    size_t at = round_up(program_.parameter_bytes, parameter.alignment);
    frame.scopes.back()[parameter.name] = {Binding::Kind::param, static_cast<uint32_t>(at), 0};
    program_.parameter_bytes = at + parameter.bytes;
  }
  body(function, std::move(frame));
}

void Assembler::call(const Statement& statement) {
  // call (result), name, (arguments): either list may be missing.
  std::vector<std::string> results, arguments;
  std::string callee;
  for (auto& operand : statement.operands) {
    if (operand.kind == Operand::Kind::name && callee.empty()) callee = operand.name;
    else if (operand.kind != Operand::Kind::list) error("an indirect call");
    else for (auto& part : operand.parts) (callee.empty() ? results : arguments).push_back(part.name);
  }
  auto found = module_.functions.find(callee);
  if (found == module_.functions.end()) error("the function " + callee + " is not known");
  const Function& function = found->second;
  if (results.size() != function.results.size() || arguments.size() != function.parameters.size()) error("the call and its function differ in their arguments");
  if (frames_.size() > 16) error("calls are nested too deeply");
  Frame frame;
  frame.scopes.emplace_back();
  auto bind = [&](const std::vector<Variable>& formal, const std::vector<std::string>& actual) {
    for (size_t i = 0; i < formal.size(); ++i) {
      const Binding* binding = find(actual[i]);
      if (!binding) error("the argument " + actual[i] + " is not known");
      frame.scopes.back()[formal[i].name] = *binding;
    }
  };
  bind(function.results, results);
  bind(function.parameters, arguments);
  frame.expanded = true;
  body(function, std::move(frame));
}

void Assembler::body(const Function& function, Frame frame) {
  frame.function = &function;
  frames_.push_back(&frame);
  for (auto& statement : function.body) {
    statement_ = &statement;
    switch (statement.kind) {
      case Statement::Kind::open: frame.scopes.emplace_back(); break;
      case Statement::Kind::close: frame.scopes.pop_back(); break;
      case Statement::Kind::registers: declare(statement); break;
      case Statement::Kind::variable: declare(statement.variable); break;
      case Statement::Kind::label:
        frame.labels[statement.name] = static_cast<int>(program_.code.size());
        frame.previous_label = statement.name;
        break;
      case Statement::Kind::targets:
        for (auto& operand : statement.operands) frame.targets[frame.previous_label].push_back(operand.name);
        break;
      case Statement::Kind::instruction: instruction(statement); break;
    }
  }
  frame.labels["ret"] = static_cast<int>(program_.code.size());
  auto position = [&](const std::string& label) {
    auto found = frame.labels.find(label);
    if (found == frame.labels.end()) error("the label " + label + " is not known");
    return found->second;
  };
  for (auto& [at, label] : frame.branches) program_.code[at].target = position(label);
  for (auto& [table, label] : frame.tables)
    for (auto& target : frame.targets[label]) program_.tables[table].push_back(position(target));
  frames_.pop_back();
}

void Assembler::instruction(const Statement& statement) {
  Instruction instruction;
  instruction.source = &statement;
  instruction.guard_negated = statement.guard_negated;
  if (!statement.guard.empty()) {
    Operand guard;
    guard.kind = Operand::Kind::name;
    guard.name = statement.guard;
    instruction.guard = static_cast<int32_t>(row(guard, 0));
  }
  if (statement.name == "call") {
    if (instruction.guard >= 0) error("a call under a predicate");
    return call(statement);
  }
  if (statement.name == "ret" && frames_.back()->expanded) {
    Operand end;
    end.name = "ret";
    branch(end, instruction);
  } else if (auto encoder = tables().encoders.find(statement.name); encoder != tables().encoders.end()) {
    encoder->second(*this, statement, instruction);
  } else {
    std::string key = statement.name;
    for (auto& modifier : statement.modifiers)
      if (!is_silent(modifier)) key += "." + modifier;
    auto found = tables().handlers.find(key);
    if (found == tables().handlers.end()) error("the instruction " + key + " is not known to the interpreter");
    const Handler& handler = found->second;
    if (statement.operands.size() != handler.widths.size()) error("it has " + std::to_string(statement.operands.size()) + " operands where " + std::to_string(handler.widths.size()) + " are expected");
    for (size_t i = 0; i < handler.widths.size(); ++i) {
      instruction.at[i] = row(statement.operands[i], handler.widths[i]);
      if (statement.operands[i].negated) instruction.negated |= static_cast<uint8_t>(1 << i);
    }
    instruction.run = handler.run;
  }
  program_.code.push_back(instruction);
}

Program assemble(std::shared_ptr<const Module> module, const std::string& entry) {
  Program program;
  program.name = entry;
  program.path = module->path;
  program.module = module;
  Assembler(program, *module).entry(module->functions.at(entry));
  return program;
}

}  // namespace anneal::simt::ptx
