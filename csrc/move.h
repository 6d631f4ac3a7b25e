// One step of a mask along a gradient, a row (prune/distil.py has the formulas and the slow twin), compiled once for
// each instruction set.
#pragma once
#include "kernels.h"

namespace {

// How many of key[0, count) are not above `most`.
inline int64_t up_to(const int32_t* key, int64_t count, int32_t most) {
  int32_t found = 0;
#pragma omp simd reduction(+ : found)
  for (int64_t k = 0; k < count; k++) found += key[k] <= most;
  return found;
}

// keep [count]: 0 for the `removed` lowest of key [count], none of them negative; of equal ones those further left go.
void drop_lowest(const int32_t* key, int64_t count, int64_t removed, uint8_t* keep) {
  int32_t below = -1, least = 0;  // no more than `removed` are up to `below`; at least so many up to `least`
#pragma omp simd reduction(max : least)
  for (int64_t k = 0; k < count; k++) least = key[k] > least ? key[k] : least;
  int64_t gone = 0;  // up to `below`
  while (gone < removed && least - below > 1) {
    const int32_t middle = below + (least - below) / 2;
    const int64_t found = up_to(key, count, middle);
    if (found <= removed) below = middle, gone = found;
    else least = middle;
  }
#pragma omp simd
  for (int64_t k = 0; k < count; k++) keep[k] = key[k] > below;
  for (int64_t k = 0; gone < removed && k < count; k++)
    if (key[k] == least) keep[k] = 0, gone++;
}

// The same in one group of `size` columns, few of them.
inline void drop_lowest_of_few(const int32_t* key, int32_t size, int32_t removed, uint8_t* keep) {
  for (int32_t i = 0; i < size; i++) {
    int32_t rank = 0;
    for (int32_t j = 0; j < i; j++) rank += key[j] <= key[i];
    for (int32_t j = i + 1; j < size; j++) rank += key[j] < key[i];
    keep[i] = rank >= removed;
  }
}

// The same in each group of so many columns, the last of which may be shorter and then loses as large a share.
void drop_lowest_of_groups(const int32_t* key, int64_t count, int64_t group, int64_t removed, uint8_t* keep) {
  int64_t first = 0;
  if (group == 4)
    for (; first + 4 <= count; first += 4) drop_lowest_of_few(key + first, 4, int32_t(removed), keep + first);
  for (; first < count; first += group) {
    const int64_t size = first + group < count ? group : count - first;
    drop_lowest_of_few(key + first, int32_t(size), int32_t(size * removed / group), keep + first);
  }
}

template <class Number>
void move_as(const sm_move& m, int64_t row, void* room) {
  const Number* gradient = static_cast<const Number*>(m.gradient) + row * m.cols;
  const Number* weight = static_cast<const Number*>(m.weights) + row * m.cols;
  Number* masked = static_cast<Number*>(m.masked) + row * m.cols;
  float *pull = static_cast<float*>(room), *score = m.scores + row * m.cols;
  int32_t* key = reinterpret_cast<int32_t*>(pull + m.cols);
  uint8_t* keep = reinterpret_cast<uint8_t*>(key + m.cols);
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t k = 0; k < m.cols; k++) {
    pull[k] = to_float(gradient[k]) * to_float(weight[k]);
    sum += pull[k] * pull[k];
  }
  m.square[row] += (1 - m.memory) * (sum / float(m.cols) - m.square[row]);
  const float mean = m.square[row] / m.seen, size = __builtin_sqrtf(mean);
  const float rate = m.rate / (size > 1e-30f ? size : 1e-30f);
  float lowest = __builtin_inff();
#pragma omp simd reduction(min : lowest)
  for (int64_t k = 0; k < m.cols; k++) {
    score[k] -= rate * pull[k];
    lowest = score[k] < lowest ? score[k] : lowest;
  }
#pragma omp simd
  for (int64_t k = 0; k < m.cols; k++) key[k] = int32_t(float_bits(score[k] - lowest));  // not negative: in order
  if (m.group) drop_lowest_of_groups(key, m.cols, m.group, m.removed, keep);
  else drop_lowest(key, m.cols, m.counts[row], keep);
#pragma omp simd
  for (int64_t k = 0; k < m.cols; k++) masked[k] = keep[k] ? weight[k] : Number(0);
}

// room [9 * cols] bytes
void move(const sm_move& m, int64_t row, void* room) {
  if (m.wide) move_as<float>(m, row, room);
  else move_as<uint16_t>(m, row, room);
}

}  // namespace
