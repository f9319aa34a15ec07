// An in-order queue of calls that one native thread executes. The JavaScript thread only enqueues; nothing it does waits for the stream.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "../cpu/signal.h"
#include "../cpu/threads.h"
#include "../failure.h"

namespace anneal {

// Calls that were kept instead of being run, to run any number of times.
class Tape {
 public:
  template <class F> void keep(F&& call) { calls_.push_back(std::make_unique<Kept<std::decay_t<F>>>(std::forward<F>(call))); }
  // For the stream's thread.
  void run() {
    for (auto& call : calls_) call->run();
  }

 private:
  struct Call {
    virtual ~Call() = default;
    virtual void run() = 0;
  };
  template <class F> struct Kept final : Call {
    explicit Kept(F&& call) : call(std::move(call)) {}
    explicit Kept(const F& call) : call(call) {}
    void run() override { call(); }
    F call;
  };
  std::vector<std::unique_ptr<Call>> calls_;
};

class Stream {
 public:
  explicit Stream(int threads);
  ~Stream();
  // Finishes the running call, drops the queued ones and joins. Nothing may be pushed afterwards.
  void stop();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // call() runs on the stream's thread, unless an earlier call failed and JavaScript, which pushed this one, did not know it yet.
  template <class F> void push(F&& call) {
    if (tape_) tape_->keep(std::forward<F>(call));
    else append(std::forward<F>(call), false);
  }
  // From here on calls that are pushed go onto the tape instead; null: they run again.
  void record(std::shared_ptr<Tape> tape) { tape_ = std::move(tape); }
  // call() runs even after a failure.
  template <class F> void push_always(F&& call) { append(std::forward<F>(call), true); }
  // JavaScript knows of this failure: what is pushed from here on runs again.
  void recover(uint64_t failure) {
    push_always([this, failure] {
      if (failure == failures_) failure_ = Failure(FailureKind::none, "");
    });
  }
  // Blocks the calling thread until everything pushed has run: for running out of memory only.
  void drain() const;
  bool idle() const { return consumed_.load(std::memory_order_acquire) == produced_; }

  // The rest is for calls on the stream's thread.
  // The first failure since the last recovery, kind none where there is none, and the number it has among all of the stream.
  const Failure& failure() const { return failure_; }
  uint64_t failures() const { return failures_; }
  void fail(const Failure& failure);
  void set_threads(int threads);

 private:
  static constexpr size_t block_bytes = 64 << 10;
  struct alignas(16) Record {
    void (*act)(void* payload, bool run);  // runs the call if asked, and destroys it; null: go on to the next block
    size_t bytes;
    bool always;
  };
  struct Block {
    std::atomic<Block*> next{nullptr};
    alignas(16) char data[block_bytes];
  };

  template <class F> void append(F&& call, bool always) {
    using Call = std::decay_t<F>;
    constexpr size_t bytes = (sizeof(Record) + sizeof(Call) + 15) / 16 * 16;
    static_assert(alignof(Call) <= 16 && bytes + sizeof(Record) <= block_bytes);
    Record* record = reserve(bytes);
    new (record + 1) Call(std::forward<F>(call));
    record->act = [](void* payload, bool run) {
      std::unique_ptr<Call, void (*)(Call*)> owner(static_cast<Call*>(payload), [](Call* c) { c->~Call(); });
      if (run) (*owner)();
    };
    record->bytes = bytes;
    record->always = always;
    ++produced_;
    published_.bump();
  }
  Record* reserve(size_t bytes);
  // The oldest record that is still queued; there must be one.
  Record* front();
  void execute();
  // Destroys, without running, what is queued; the thread has ended.
  void drop();

  std::unique_ptr<ThreadPool> pool_;
  std::thread thread_;
  // The producer's side.
  Block* tail_;
  size_t tail_used_ = 0;
  uint32_t produced_ = 0;
  std::shared_ptr<Tape> tape_;
  // Shared.
  Signal published_;
  alignas(64) std::atomic<uint32_t> consumed_{0};
  std::atomic<bool> stop_{false};
  // The consumer's side.
  Block* head_;
  size_t head_used_ = 0;
  Failure failure_{FailureKind::none, ""};
  uint64_t failures_ = 0;
};

}  // namespace anneal
