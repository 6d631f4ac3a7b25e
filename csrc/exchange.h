// Exchanges of kept and dropped weights of one row (prune/swaps.py has the formulas and the slow twin), compiled once
// for each instruction set.
#pragma once
#include "kernels.h"

namespace {

constexpr int CANDIDATES = 8;  // of each kind that a round looks at

// Where the lowest of cost[0, count) are, at most CANDIDATES and none that is infinite.
int lowest(const float* cost, int64_t count, int64_t* at) {
  float value[CANDIDATES], worst = __builtin_inff();
  int found = 0, last = 0;
  for (int64_t first = 0; first < count; first += 64) {
    const int64_t end = first + 64 < count ? first + 64 : count;
    float least = __builtin_inff();
#pragma omp simd reduction(min : least)
    for (int64_t k = first; k < end; k++) least = cost[k] < least ? cost[k] : least;
    if (!(least < worst)) continue;
    for (int64_t k = first; k < end; k++) {
      if (!(cost[k] < worst)) continue;
      const int to = found < CANDIDATES ? found++ : last;
      at[to] = k;
      value[to] = cost[k];
      if (found < CANDIDATES) continue;
      last = 0;
      for (int i = 1; i < CANDIDATES; i++) last = value[i] > value[last] ? i : last;
      worst = value[last];
    }
  }
  return found;
}

// Lowers the error of a row by exchanges until none gains `least` of it, or `rounds` are used up.
//   w, pull [cols]: the weights; half the slope of the error, which is kept up to date.
//   gram [cols][cols], diagonal [cols].
//   group: exchanges stay inside so many columns, at least 2; 0 = anywhere.
//   room [2 * cols].
void exchange(const float* w, const float* gram, const float* diagonal, int64_t cols, int64_t group, int64_t rounds,
              float least, float* pull, uint8_t* keep, float* room) {
  float *drop = room, *back = room + cols;
  for (int64_t round = 0; round < rounds; round++) {
    float error = 0;
#pragma omp simd reduction(+ : error)
    for (int64_t k = 0; k < cols; k++) {
      const float square = w[k] * w[k] * diagonal[k], linear = 2 * w[k] * pull[k];
      drop[k] = keep[k] ? square + linear : __builtin_inff();
      back[k] = keep[k] ? __builtin_inff() : square - linear;
      error += keep[k] ? 0.0f : 0.5f * linear;
    }
    const float needed = -least * (error > 0 ? error : 0);
    int64_t column[2 * CANDIDATES];  // to drop, then to take back
    int drops, backs;
    if (group) {
      // the best exchange of every group stands in for it; its cost overwrites `drop` below the group's own columns
      const int64_t groups = cols / group;
      for (int64_t g = 0; g < groups; g++) {
        float best = __builtin_inff();
        int64_t out = g * group, in = out;
        for (int64_t a = g * group; a < (g + 1) * group; a++)
          for (int64_t b = g * group; keep[a] && b < (g + 1) * group; b++) {
            if (keep[b]) continue;
            const float cost = drop[a] + back[b] - 2 * w[a] * w[b] * gram[a * cols + b];
            if (cost < best) best = cost, out = a, in = b;
          }
        drop[g] = best;
        back[g * group] = float(out - g * group);
        back[g * group + 1] = float(in - g * group);
      }
      int64_t chosen[CANDIDATES];
      drops = backs = lowest(drop, groups, chosen);
      for (int i = 0; i < drops; i++) {
        column[i] = chosen[i] * group + int64_t(back[chosen[i] * group]);
        column[drops + i] = chosen[i] * group + int64_t(back[chosen[i] * group + 1]);
      }
    } else {
      drops = lowest(drop, cols, column);
      backs = lowest(back, cols, column + drops);
    }
    const int count = drops + backs;
    float g[2 * CANDIDATES][2 * CANDIDATES], v[2 * CANDIDATES], slope[2 * CANDIDATES];
    bool used[2 * CANDIDATES] = {};
    for (int i = 0; i < count; i++) {
      v[i] = w[column[i]];
      slope[i] = pull[column[i]];
      for (int j = 0; j < count; j++) g[i][j] = gram[column[i] * cols + column[j]];
    }
    bool any = false;
    for (int made = 0; made < (drops < backs ? drops : backs); made++) {
      float best = needed;
      int out = -1, in = -1;
      for (int i = 0; i < drops; i++) {
        if (used[i]) continue;
        const float leaving = v[i] * v[i] * g[i][i] + 2 * v[i] * slope[i];
        for (int j = group ? drops + i : drops; j < (group ? drops + i + 1 : count); j++) {
          if (used[j]) continue;
          const float cost = leaving + v[j] * v[j] * g[j][j] - 2 * v[j] * slope[j] - 2 * v[i] * v[j] * g[i][j];
          if (cost < best) best = cost, out = i, in = j;
        }
      }
      if (out < 0) break;
      any = used[out] = used[in] = true;
      keep[column[out]] = 0;
      keep[column[in]] = 1;
      const float a = v[out], b = v[in];
      for (int k = 0; k < count; k++) slope[k] += a * g[out][k] - b * g[in][k];
      const float *gone = gram + column[out] * cols, *taken = gram + column[in] * cols;
#pragma omp simd
      for (int64_t k = 0; k < cols; k++) pull[k] += a * gone[k] - b * taken[k];
    }
    if (!any) return;
  }
}

}  // namespace
