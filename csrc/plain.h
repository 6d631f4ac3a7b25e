// Loops that the compiler turns into vectors by itself, compiled once for each instruction set.
#pragma once
#include "kernels.h"

namespace {

// to about 2e-7, relative
inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
  const float steps = x * 1.44269504f;
  const int32_t whole = int32_t(steps + (steps < 0 ? -0.5f : 0.5f));
  const float r = x - float(whole) * 0.693359375f + float(whole) * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return (p * r * r + r + 1.0f) * bits_float(uint32_t(whole + 127) << 23);
}

// gate = activation(gate) * up
void activate(float* gate, const float* up, int64_t count, int64_t gelu) {
  if (gelu) {  // the tanh form
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
      float x = gate[i], inner = 1.5957691216f * (x + 0.044715f * x * x * x);
      gate[i] = up[i] * x / (1.0f + exponential(-inner));
    }
  } else {
#pragma omp simd
    for (int64_t i = 0; i < count; i++) gate[i] = up[i] * gate[i] / (1.0f + exponential(-gate[i]));
  }
}

// y = x plus bias, if any, as bfloat16
void round_all(const float* x, const uint16_t* bias, int64_t count, uint16_t* y) {
  if (bias) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++) y[i] = to_bf16(x[i] + from_bf16(bias[i]));
  } else {
#pragma omp simd
    for (int64_t i = 0; i < count; i++) y[i] = to_bf16(x[i]);
  }
}

// x = cap * tanh(x / cap)
void cap_all(float* x, int64_t count, float cap) {
  const float twice = 2.0f / cap;
#pragma omp simd
  for (int64_t i = 0; i < count; i++) x[i] = cap - 2.0f * cap / (1.0f + exponential(twice * x[i]));
}

// One head of keys and values [length][size] for `group` heads of queries q [group][size], scaled already.
// A cap of 0 leaves the scores. scores [group][length] and row [size] are room to work in.
void attend(const float* q, const uint16_t* keys, const uint16_t* values, int64_t length, int64_t size, int64_t group,
            float cap, float* scores, float* row, float* out) {
  for (int64_t t = 0; t < length; t++) {
#pragma omp simd
    for (int64_t i = 0; i < size; i++) row[i] = from_bf16(keys[t * size + i]);
    for (int64_t g = 0; g < group; g++) {
      float sum = 0;
      const float* mine = q + g * size;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < size; i++) sum += mine[i] * row[i];
      scores[g * length + t] = sum;
    }
  }
  if (cap > 0) cap_all(scores, group * length, cap);
  for (int64_t g = 0; g < group; g++) {
    float* s = scores + g * length;
    float most = s[0], total = 0;
#pragma omp simd reduction(max : most)
    for (int64_t t = 0; t < length; t++) most = s[t] > most ? s[t] : most;
#pragma omp simd reduction(+ : total)
    for (int64_t t = 0; t < length; t++) total += s[t] = exponential(s[t] - most);
    const float share = 1.0f / total;
#pragma omp simd
    for (int64_t t = 0; t < length; t++) s[t] *= share;
  }
  for (int64_t i = 0; i < group * size; i++) out[i] = 0;
  for (int64_t t = 0; t < length; t++) {
#pragma omp simd
    for (int64_t i = 0; i < size; i++) row[i] = from_bf16(values[t * size + i]);
    for (int64_t g = 0; g < group; g++) {
      const float p = scores[g * length + t];
      float* mine = out + g * size;
#pragma omp simd
      for (int64_t i = 0; i < size; i++) mine[i] += p * row[i];
    }
  }
}

}  // namespace
