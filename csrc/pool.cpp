#include "pool.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace {

using Clock = std::chrono::steady_clock;
constexpr auto SPIN = std::chrono::microseconds(50);

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

class Pool {
 public:
  void run(int64_t threads, int64_t count, void (*work)(void*, int64_t), void* context) {
    const uint64_t before = task_.load(std::memory_order_relaxed);
    while (workers_ < threads - 1) std::thread([this, index = workers_++, before] { loop(index, before); }).detach();
    work_ = work;
    context_ = context;
    count_ = count;
    helpers_ = threads - 1;
    next_.store(0, std::memory_order_relaxed);
    open_.store(before + 1);
    {
      std::lock_guard<std::mutex> lock(mutex_);  // a worker that is about to park sees the new task
      task_.store(before + 1, std::memory_order_release);
    }
    if (parked_.load() > 0) wake_.notify_all();
    drain();
    open_.store(0);  // who wakes up only now has nothing to do, and nobody waits for it
    for (int tries = 0; active_.load() > 0; tries++) {
      if (tries < 4096) pause();
      else std::this_thread::yield();
    }
  }

  std::mutex taken;  // by the caller whose task runs

 private:
  void drain() {
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) work_(context_, i);
  }

  void loop(int64_t index, uint64_t seen) {
    for (;;) {
      auto until = Clock::now() + SPIN;
      while (task_.load(std::memory_order_acquire) == seen) {
        for (int i = 0; i < 64 && task_.load(std::memory_order_relaxed) == seen; i++) pause();
        if (Clock::now() < until) continue;
        std::unique_lock<std::mutex> lock(mutex_);
        parked_.fetch_add(1);
        wake_.wait(lock, [&] { return task_.load() != seen; });
        parked_.fetch_sub(1);
      }
      seen = task_.load();
      active_.fetch_add(1);
      if (open_.load() == seen && index < helpers_) drain();
      active_.fetch_sub(1);
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> task_{0}, open_{0};
  std::atomic<int64_t> next_{0}, active_{0}, parked_{0};
  void (*work_)(void*, int64_t) = nullptr;
  void* context_ = nullptr;
  int64_t count_ = 0, helpers_ = 0, workers_ = 0;
};

// never destroyed: its threads may outlive static destructors
Pool* pool = nullptr;
std::once_flag once;

Pool& the_pool() {
  std::call_once(once, [] {
    pool = new Pool;
    pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });  // a forked child has none of the threads
  });
  return *pool;
}

}  // namespace

void run_parallel(int64_t threads, int64_t count, void (*work)(void*, int64_t), void* context) {
  if (threads > 1 && count > 1) {
    Pool& p = the_pool();
    std::unique_lock<std::mutex> lock(p.taken, std::try_to_lock);
    if (lock.owns_lock()) {
      p.run(threads < count ? threads : count, count, work, context);
      return;
    }
  }
  for (int64_t i = 0; i < count; i++) work(context, i);
}
