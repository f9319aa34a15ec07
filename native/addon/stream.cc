#include "stream.h"

#include <chrono>
#include <new>

namespace anneal {

Stream::Stream(int threads) : tail_(new Block), head_(tail_) {
  thread_ = std::thread([this, threads] {
    try {
      set_threads(threads);
    } catch (const std::exception&) {  // the system gives no more threads; setThreads() would say so
      set_threads(1);
    }
    execute();
    set_pool(nullptr);
    pool_.reset();
  });
}

void Stream::stop() {
  if (!thread_.joinable()) return;
  stop_ = true;
  published_.bump();
  thread_.join();
  // Another device's stream may be waiting for a copy that stands here, and now learns that none comes.
  drop();
}

void Stream::drop() {
  while (consumed_.load() != produced_) {
    Record* record = front();
    record->act(record + 1, false);
    head_used_ += record->bytes;
    consumed_.fetch_add(1);
  }
}

void Stream::drain() const {
  while (!idle()) std::this_thread::sleep_for(std::chrono::microseconds(50));
}

Stream::Record* Stream::front() {
  for (;;) {
    auto* record = reinterpret_cast<Record*>(head_->data + head_used_);
    if (head_used_ + sizeof(Record) <= block_bytes && record->act) return record;
    Block* next = head_->next;
    delete head_;
    head_ = next;
    head_used_ = 0;
  }
}

Stream::~Stream() {
  stop();
  drop();
  delete head_;
}

Stream::Record* Stream::reserve(size_t bytes) {
  if (tail_used_ + bytes > block_bytes) {
    if (tail_used_ + sizeof(Record) <= block_bytes) reinterpret_cast<Record*>(tail_->data + tail_used_)->act = nullptr;
    Block* next = new Block;
    tail_->next = next;
    tail_ = next;
    tail_used_ = 0;
  }
  auto* record = reinterpret_cast<Record*>(tail_->data + tail_used_);
  tail_used_ += bytes;
  return record;
}

void Stream::execute() {
  uint32_t done = 0;
  for (;;) {
    uint32_t available = published_.value.load(std::memory_order_acquire);
    if (available == done) {
      published_.wait_change(available, Waiting::for_work);
      continue;
    }
    if (stop_) return;
    Record* record = front();
    size_t bytes = record->bytes;
    try {
      record->act(record + 1, record->always || failure_.kind == FailureKind::none);
    } catch (const Failure& failure) {
      fail(failure);
    } catch (const std::bad_alloc&) {
      fail(Failure(FailureKind::memory, "a kernel could not get its working memory"));
    } catch (const std::exception& error) {
      fail(Failure(FailureKind::kernel, error.what()));
    }
    head_used_ += bytes;
    ++done;
    consumed_.store(done, std::memory_order_release);
  }
}

void Stream::fail(const Failure& failure) {
  if (failure_.kind != FailureKind::none) return;
  failure_ = failure;
  ++failures_;
}

void Stream::set_threads(int threads) {
  // The old pool serves until the new one exists: starting threads may fail.
  auto pool = std::make_unique<ThreadPool>(threads);
  set_pool(pool.get());
  pool_ = std::move(pool);
}

}  // namespace anneal
