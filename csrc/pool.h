// Threads that work on one task at a time, spin briefly for the next one, and then park.
#pragma once
#include <stdint.h>

// Calls work(context, index) for every index in [0, count), on at most `threads` threads, the caller's included.
// A second caller at the same time works alone: each lane of batch decoding has a core of its own anyway.
void run_parallel(int64_t threads, int64_t count, void (*work)(void* context, int64_t index), void* context);

template <class Work>
void parallel(int64_t threads, int64_t count, const Work& work) {
  run_parallel(threads, count, [](void* context, int64_t index) { (*static_cast<const Work*>(context))(index); },
               const_cast<Work*>(&work));
}
