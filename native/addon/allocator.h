// The caching allocator of a device. Only the JavaScript thread touches it, in the order in which calls are enqueued: a freed block may be handed out
// at once, because whatever uses it next also runs next. Blocks are split from large segments and merge with their free neighbours again.
#pragma once
#include <cstddef>
#include <cstdint>
#include <set>
#include <vector>

namespace anneal {

// Where segments come from.
class Memory {
 public:
  virtual ~Memory() = default;
  // Null where there is none left.
  virtual void* allocate(size_t bytes) = 0;
  virtual void release(void* segment) = 0;
  // Each block is a segment of its own, so that the device sees an access outside it.
  virtual bool exact() const { return false; }
};

// The host's memory, in huge pages where the system has them.
class HostMemory : public Memory {
 public:
  void* allocate(size_t bytes) override;
  void release(void* segment) override;
};

class Allocator {
 public:
  struct Block {
    char* data;
    size_t bytes;
    bool small;          // cut from a segment for small blocks
    int references = 0;  // tensors that share the block; 0: free
    Block* previous = nullptr;  // neighbours in the segment
    Block* next = nullptr;
  };
  struct Statistics {
    size_t live = 0;    // bytes in use, rounded as allocated
    size_t peak = 0;    // the most that `live` has been
    size_t system = 0;  // bytes taken from the system
    size_t blocks = 0;  // blocks in use
  };

  explicit Allocator(Memory& memory) : memory_(memory) {}
  ~Allocator() { release_all(); }
  // A block of at least `bytes` with one reference; null where the system refuses, or the limit would be passed.
  Block* allocate(size_t bytes);
  bool exact() const { return memory_.exact(); }
  void retain(Block* block) { ++block->references; }
  void release(Block* block);
  // Takes the segments that are wholly free off the books; the caller frees them with free_segment once the stream has passed.
  std::vector<void*> take_free_segments();
  // May be called from another thread.
  void free_segment(void* segment) { memory_.release(segment); }

  // Gives everything back, blocks in use included; nothing may run on the device any more.
  void release_all();

  const Statistics& statistics() const { return statistics_; }
  void reset_peak() { statistics_.peak = statistics_.live; }
  // Most bytes to take from the system; 0: no limit.
  void set_limit(size_t bytes) { limit_ = bytes; }

 private:
  struct Smaller {
    bool operator()(const Block* a, const Block* b) const { return a->bytes != b->bytes ? a->bytes < b->bytes : a->data < b->data; }
  };
  struct Bin {
    std::set<Block*, Smaller> free;
  };
  void absorb_next(Block* block);

  static constexpr size_t small_bytes = 1 << 20;
  Memory& memory_;
  Bin small_, large_;
  std::vector<Block*> segments_;  // the first block of each segment
  Statistics statistics_;
  size_t limit_ = 0;
};

}  // namespace anneal
