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

// The same for 16 columns at once, as the sum of two rows: of the first 8 columns, which the second 8 lie behind, and of
// the second 8. And for 8 columns of bfloat16 as the upper halves of 32-bit lanes: floats.
struct WideExpansion {
  alignas(32) uint8_t floats[256][32];
  alignas(16) uint8_t first[256][16], second[256][16];
  constexpr WideExpansion() : floats(), first(), second() {
    for (int mask = 0; mask < 256; mask++)
      for (int j = 0; j < 8; j++) {
        floats[mask][4 * j] = floats[mask][4 * j + 1] = 0x80;
        floats[mask][4 * j + 2] = TABLE.halves[mask][2 * j];
        floats[mask][4 * j + 3] = TABLE.halves[mask][2 * j + 1];
        first[mask][j] = second[mask][8 + j] = TABLE.bytes[mask][j];
        first[mask][8 + j] = TABLE.count[mask];
      }
  }
};

}  // namespace
