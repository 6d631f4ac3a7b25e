// Where survivors go, eight columns at a time: for instruction sets that expand by shuffling bytes.
#pragma once
#include <stdint.h>

namespace {

// where each of 8 columns finds its value among the survivors, 0x80 = dropped; and how many survive
struct Expansion {
  alignas(16) uint8_t bytes[256][8], halves[256][16], count[256];
  constexpr Expansion() : bytes(), halves(), count() {
    for (int mask = 0; mask < 256; mask++) {
      int next = 0;
      for (int j = 0; j < 8; j++) {
        bool here = mask >> j & 1;
        bytes[mask][j] = uint8_t(here ? next : 0x80);
        halves[mask][2 * j] = uint8_t(here ? 2 * next : 0x80);
        halves[mask][2 * j + 1] = uint8_t(here ? 2 * next + 1 : 0x80);
        next += here;
      }
      count[mask] = uint8_t(next);
    }
  }
};
constexpr Expansion TABLE;

}  // namespace
