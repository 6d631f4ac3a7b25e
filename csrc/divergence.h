// How far one distribution over the vocabulary is from another, and the gradient (prune/whole.py has the slow twin),
// compiled once for each instruction set.
#pragma once
#include "plain.h"

namespace {

inline void from_float(float x, float& y) { y = x; }
inline void from_float(float x, uint16_t& y) { y = to_bf16(x); }

template <class Number>
float divergence_as(const Number* dense, const Number* pruned, int64_t count, float weight, Number* slope) {
  float most = -__builtin_inff(), other = -__builtin_inff();
#pragma omp simd reduction(max : most, other)
  for (int64_t k = 0; k < count; k++) {
    const float d = to_float(dense[k]), p = to_float(pruned[k]);
    most = d > most ? d : most;
    other = p > other ? p : other;
  }
  float sum = 0, own = 0, apart = 0;  // of the two exponentials; of the first times what the logits differ by
  for (int64_t first = 0; first < count; first += 4096) {  // long sums of small numbers lose digits
    const int64_t end = first + 4096 < count ? first + 4096 : count;
    float s = 0, o = 0, a = 0;
#pragma omp simd reduction(+ : s, o, a)
    for (int64_t k = first; k < end; k++) {
      const float d = to_float(dense[k]) - most, p = to_float(pruned[k]) - other, e = exponential(d);
      s += e;
      o += exponential(p);
      a += e * (d - p);
    }
    sum += s, own += o, apart += a;
  }
  const float scale = weight / sum, own_scale = weight / own;
#pragma omp simd
  for (int64_t k = 0; k < count; k++)
    from_float(exponential(to_float(pruned[k]) - other) * own_scale - exponential(to_float(dense[k]) - most) * scale,
               slope[k]);
  return apart / sum + __builtin_logf(own / sum);
}

// KL(dense || pruned) of logits [count], in nats; slope [count] = weight times its gradient by `pruned`.
float divergence(const void* dense, const void* pruned, int64_t wide, int64_t count, float weight, void* slope) {
  if (wide)
    return divergence_as(static_cast<const float*>(dense), static_cast<const float*>(pruned), count, weight,
                         static_cast<float*>(slope));
  return divergence_as(static_cast<const uint16_t*>(dense), static_cast<const uint16_t*>(pruned), count, weight,
                       static_cast<uint16_t*>(slope));
}

}  // namespace
