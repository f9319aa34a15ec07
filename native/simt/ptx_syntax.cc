#include "ptx_syntax.h"

#include <algorithm>
#include <cctype>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace anneal::simt::ptx {

void fail(const char* format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  throw Fault(text);
}

Type type_named(const std::string& name) {
  static const std::map<std::string, Type> types{
      {"u8", Type::u8},   {"u16", Type::u16}, {"u32", Type::u32}, {"u64", Type::u64},   {"s8", Type::s8},   {"s16", Type::s16},   {"s32", Type::s32},
      {"s64", Type::s64}, {"b8", Type::b8},   {"b16", Type::b16}, {"b32", Type::b32},   {"b64", Type::b64}, {"f16", Type::f16},   {"bf16", Type::bf16},
      {"f32", Type::f32}, {"f64", Type::f64}, {"pred", Type::pred}, {"f16x2", Type::f16x2}, {"bf16x2", Type::bf16x2}};
  auto found = types.find(name);
  return found == types.end() ? Type::none : found->second;
}

int size_of(Type type) {
  switch (type) {
    case Type::u8: case Type::s8: case Type::b8: return 1;
    case Type::u16: case Type::s16: case Type::b16: case Type::f16: case Type::bf16: return 2;
    case Type::u32: case Type::s32: case Type::b32: case Type::f32: case Type::f16x2: case Type::bf16x2: return 4;
    case Type::u64: case Type::s64: case Type::b64: case Type::f64: return 8;
    default: return 0;
  }
}
bool is_float(Type type) { return type == Type::f16 || type == Type::bf16 || type == Type::f32 || type == Type::f64; }
bool is_signed(Type type) { return type == Type::s8 || type == Type::s16 || type == Type::s32 || type == Type::s64; }

bool Statement::has(const char* modifier) const { return std::find(modifiers.begin(), modifiers.end(), modifier) != modifiers.end(); }
std::vector<Type> Statement::types() const {
  std::vector<Type> found;
  for (auto& modifier : modifiers)
    if (Type type = type_named(modifier); type != Type::none) found.push_back(type);
  return found;
}

namespace {

class Parser {
 public:
  Parser(const std::string& text, const std::string& path) : text_(text), path_(path) {}

  Module module() {
    Module module;
    module.path = path_;
    bool external = false;
    while (peek()) {
      std::string word = this->word();
      if (word == ".version" || word == ".target" || word == ".address_size" || word == ".file") skip_line();
      else if (word == ".extern") external = true;
      else if (word == ".visible" || word == ".weak" || word == ".common") continue;
      else if (word == ".global" || word == ".const" || word == ".shared") {
        Variable variable = this->variable(word);
        variable.is_extern = external;
        external = false;
        expect(';');
        module.variables[variable.name] = variable;
      } else if (word == ".entry" || word == ".func") {
        Function function = this->function(word == ".entry");
        external = false;
        if (!function.body.empty()) module.functions[function.name] = std::move(function);
      } else {
        error("unexpected \"" + word + "\"");
      }
    }
    return module;
  }

 private:
  [[noreturn]] void error(const std::string& what) const { fail("%s:%d: %s", path_.c_str(), line_, what.c_str()); }

  // The next character that is neither space nor comment; 0 at the end.
  char peek() {
    for (; at_ < text_.size(); ++at_) {
      if (text_[at_] == '\n') ++line_;
      else if (text_.compare(at_, 2, "//") == 0) at_ = std::min(text_.find('\n', at_), text_.size()) - 1;
      else if (!std::isspace(static_cast<unsigned char>(text_[at_]))) return text_[at_];
    }
    return 0;
  }
  bool eat(char c) {
    if (peek() != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!eat(c)) error(std::string("expected '") + c + "' before \"" + text_.substr(at_, 20) + "\"");
  }
  static bool is_name(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%' || c == '.'; }
  std::string word() {
    peek();
    size_t begin = at_;
    while (at_ < text_.size()) {
      if (is_name(text_[at_])) ++at_;
      else if (text_.compare(at_, 2, "::") == 0) at_ += 2;
      else break;
    }
    if (begin == at_) error("expected a word before \"" + text_.substr(at_, 20) + "\"");
    return text_.substr(begin, at_ - begin);
  }
  void skip_line() { at_ = std::min(text_.find('\n', at_), text_.size()); }
  uint64_t number() {
    bool minus = eat('-');
    std::string digits = word();
    uint64_t bits;
    if (digits.size() > 2 && digits[0] == '0' && std::string("fFdD").find(digits[1]) != std::string::npos) bits = std::strtoull(digits.c_str() + 2, nullptr, 16);
    else bits = std::strtoull(digits.c_str(), nullptr, 0);
    return minus ? 0 - bits : bits;
  }

  // "[.align n] .type name[count] [= {…}]", after its space.
  Variable variable(const std::string& space) {
    Variable variable;
    variable.space = space.substr(1);
    Type type = Type::none;
    for (std::string word = this->word();; word = this->word()) {
      if (word == ".align") variable.alignment = number();
      else if (word[0] != '.') {
        variable.name = word;
        break;
      } else if (Type named = type_named(word.substr(1)); named != Type::none) type = named;
      else if (word != ".ptr" && word != ".global" && word != ".const" && word != ".shared") error("unexpected \"" + word + "\" in a variable");
    }
    if (type == Type::none) error("the variable " + variable.name + " has no type");
    size_t element = size_of(type), count = 1;
    while (eat('[')) {
      count *= peek() == ']' ? 0 : number();
      expect(']');
    }
    variable.bytes = element * count;
    variable.alignment = std::max(variable.alignment, element);
    if (eat('=')) {
      auto value = [&] {
        uint64_t bits = number();
        for (size_t byte = 0; byte < element; ++byte) variable.initial.push_back(static_cast<uint8_t>(bits >> (8 * byte)));
      };
      if (eat('{')) {
        do value();
        while (eat(','));
        expect('}');
      } else {
        value();
      }
      variable.initial.resize(variable.bytes);
    }
    return variable;
  }

  std::vector<Variable> parameters() {
    std::vector<Variable> list;
    if (!eat('(')) return list;
    while (!eat(')')) {
      if (word() != ".param") error("expected .param");
      list.push_back(variable(".param"));
      eat(',');
    }
    return list;
  }

  Function function(bool is_entry) {
    Function function;
    function.is_entry = is_entry;
    if (!is_entry) function.results = parameters();
    function.name = word();
    function.parameters = parameters();
    while (peek() == '.') skip_line();  // .maxntid, .minnctapersm, .noreturn …
    if (eat(';')) return function;
    expect('{');
    for (int depth = 1; depth;) {
      Statement statement = this->statement();
      if (statement.kind == Statement::Kind::open) ++depth;
      if (statement.kind == Statement::Kind::close && --depth == 0) break;
      function.body.push_back(std::move(statement));
    }
    Statement last;
    last.name = "ret";
    last.text = "}";
    last.line = line_;
    function.body.push_back(last);
    return function;
  }

  Statement statement() {
    Statement statement;
    for (;;) {  // what says nothing about the program
      peek();
      if (text_.compare(at_, 7, ".pragma") == 0) {
        while (!eat(';')) ++at_;
      } else if (text_.compare(at_, 4, ".loc") == 0 && std::isspace(static_cast<unsigned char>(text_[at_ + 4]))) {
        skip_line();
      } else {
        break;
      }
    }
    char c = peek();
    size_t begin = at_;
    statement.line = line_;
    if (!c) error("the text ends inside a function");
    if (c == '{' || c == '}') {
      statement.kind = eat('{') ? Statement::Kind::open : Statement::Kind::close;
      if (c == '}') ++at_;
      return statement;
    }
    if (eat('@')) {
      statement.guard_negated = eat('!');
      statement.guard = word();
      peek();
      begin = at_;
    }
    std::string word = this->word();
    if (word == ".reg") return registers(statement);
    if (word == ".local" || word == ".shared" || word == ".param") {
      statement.kind = Statement::Kind::variable;
      statement.variable = variable(word);
      expect(';');
      return statement;
    }
    if (word == ".branchtargets") {
      statement.kind = Statement::Kind::targets;
      operands(statement);
      return statement;
    }
    if (eat(':')) {
      statement.kind = Statement::Kind::label;
      statement.name = word;
      return statement;
    }
    if (word[0] == '.') error("unexpected \"" + word + "\"");
    size_t dot = word.find('.');
    statement.name = word.substr(0, dot);
    while (dot != std::string::npos) {
      size_t next = word.find('.', dot + 1);
      statement.modifiers.push_back(word.substr(dot + 1, next == std::string::npos ? next : next - dot - 1));
      dot = next;
    }
    operands(statement);
    for (; begin < at_; ++begin) {  // one line for messages
      char letter = text_[begin] == '\t' || text_[begin] == '\n' ? ' ' : text_[begin];
      if (letter != ' ' || (!statement.text.empty() && statement.text.back() != ' ')) statement.text += letter;
    }
    return statement;
  }

  Statement registers(Statement statement) {
    statement.kind = Statement::Kind::registers;
    statement.name = word().substr(1);
    do {
      std::string name = word();
      int count = -1;
      if (eat('<')) {
        count = static_cast<int>(number());
        expect('>');
      }
      statement.registers.push_back({name, count});
    } while (eat(','));
    expect(';');
    return statement;
  }

  void operands(Statement& statement) {
    if (eat(';')) return;
    do statement.operands.push_back(operand());
    while (eat(','));
    expect(';');
  }

  std::vector<Operand> list(char end) {
    std::vector<Operand> parts;
    if (eat(end)) return parts;
    do parts.push_back(operand());
    while (eat(','));
    expect(end);
    return parts;
  }

  Operand operand() {
    Operand operand;
    char c = peek();
    if (c == '{' || c == '(') {
      ++at_;
      operand.kind = Operand::Kind::list;
      operand.parts = list(c == '{' ? '}' : ')');
      return operand;
    }
    if (eat('[')) {
      operand.kind = Operand::Kind::address;
      if (std::isdigit(static_cast<unsigned char>(peek()))) operand.bits = number();
      else operand.name = word();
      if (eat('+')) operand.bits += number();
      expect(']');
      return operand;
    }
    operand.negated = eat('!');
    c = peek();
    if (c == '-' || std::isdigit(static_cast<unsigned char>(c))) {
      operand.bits = number();
      return operand;
    }
    operand.kind = Operand::Kind::name;
    operand.name = word();
    if (eat('+')) operand.bits = number();
    if (peek() != '|') return operand;
    Operand pair;
    pair.kind = Operand::Kind::pair;
    pair.parts.push_back(operand);
    eat('|');
    pair.parts.push_back(this->operand());
    return pair;
  }

  const std::string& text_;
  const std::string& path_;
  size_t at_ = 0;
  int line_ = 1;
};

}  // namespace

Module parse(const std::string& text, const std::string& path) { return Parser(text, path).module(); }

}  // namespace anneal::simt::ptx
