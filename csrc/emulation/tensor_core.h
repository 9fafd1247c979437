// ldmatrix and mma.sync with the fragment layouts of the PTX manual (section "Matrix multiply-accumulate operation using
// mma instruction"). Products are exact, sums are taken in double and rounded once: within the error that the hardware's
// own order of summation has, not bit-equal to it.
#pragma once

#include <array>
#include <cstring>

#include "emulation/warp_intrinsics.h"

namespace genlab {
namespace emulation {

template <int kMatrices>
using MatrixRegisters = std::array<uint32_t, kMatrices>;

// Lane 8 i + r gives the address of row r (16 bytes) of matrix i. Without transposition lane l receives 4 bytes, the
// column pair l % 4 of row l / 4; with it, the 16-bit elements (2 (l % 4), l / 4) and (2 (l % 4) + 1, l / 4).
template <int kMatrices, bool kTranspose>
struct LoadMatrix {
  void operator()(Lanes<const unsigned char*, MatrixRegisters<kMatrices>>& lanes) const {
    if (lanes.mask() != ~uint32_t{0}) fail("ldmatrix: every lane of the warp must take part");
    MatrixRegisters<kMatrices> out[32];
    for (int m = 0; m < kMatrices; ++m) {
      const unsigned char* rows[8];
      for (uint32_t r = 0; r < 8; ++r) rows[r] = lanes.input(m * 8 + r);
      count_bank_conflicts(rows);
      for (uint32_t lane = 0; lane < 32; ++lane) {
        unsigned char* to = reinterpret_cast<unsigned char*>(&out[lane][m]);
        if (kTranspose) {
          std::memcpy(to, rows[2 * (lane % 4)] + 2 * (lane / 4), 2);
          std::memcpy(to + 2, rows[2 * (lane % 4) + 1] + 2 * (lane / 4), 2);
        } else {
          std::memcpy(to, rows[lane / 4] + 4 * (lane % 4), 4);
        }
      }
    }
    for (uint32_t lane = 0; lane < 32; ++lane) lanes.give(lane, out[lane]);
  }

  // Eight rows of 16 bytes pass in one cycle when they lie in eight different groups of four banks.
  static void count_bank_conflicts(const unsigned char* const (&rows)[8]) {
    uint32_t worst = 1;
    for (int group = 0; group < 8; ++group) {
      const unsigned char* distinct[8];
      uint32_t count = 0;
      for (const unsigned char* row : rows) {
        if (reinterpret_cast<std::uintptr_t>(row) / 16 % 8 != static_cast<std::uintptr_t>(group)) continue;
        bool seen = false;
        for (uint32_t i = 0; i < count; ++i) seen = seen || distinct[i] == row;
        if (!seen) distinct[count++] = row;
      }
      worst = max(worst, count);
    }
    ++counters.matrix_loads;
    counters.bank_conflicts += worst - 1;
  }
};

template <int kMatrices, bool kTranspose>
inline void load_matrix(uint32_t (&registers)[kMatrices], const void* row) {
  const uint32_t lane = current_thread->linear % 32;
  if (lane < kMatrices * 8) {
    check_aligned(row, 16, "ldmatrix row");
    current_block->shared.check_inside(row, 16, "ldmatrix row");
    current_block->shared.read(row, 16, current_block->access_of(current_thread->linear));
  }
  const auto out = meet<MatrixRegisters<kMatrices>, LoadMatrix<kMatrices, kTranspose>>(
      kTranspose ? "ldmatrix.trans" : "ldmatrix", ~uint32_t{0}, static_cast<const unsigned char*>(row));
  for (int m = 0; m < kMatrices; ++m) registers[m] = out[m];
}

struct MmaInput {
  uint32_t a[4];
  uint32_t b[2];
  float c[4];
};

template <int kDepth>
inline void multiply_tiles(Lanes<MmaInput, std::array<float, 4>>& lanes, const float (&a)[16][kDepth],
                           const float (&b)[8][kDepth]) {
  if (lanes.mask() != ~uint32_t{0}) fail("mma.sync: every lane of the warp must take part");
  for (uint32_t lane = 0; lane < 32; ++lane) {
    const MmaInput in = lanes.input(lane);
    std::array<float, 4> out;
    for (uint32_t q = 0; q < 4; ++q) {
      const float* row = a[lane / 4 + q / 2 * 8];
      const float* column = b[lane % 4 * 2 + q % 2];
      double sum = in.c[q];
      for (int k = 0; k < kDepth; ++k) sum += double(row[k]) * column[k];
      out[q] = static_cast<float>(sum);
    }
    lanes.give(lane, out);
  }
  ++counters.matrix_products;
}

// m16n8k16 for 16-bit elements, two to a register: widen(bits) gives the value of one.
template <float (*widen)(uint16_t)>
struct Mma16 {
  void operator()(Lanes<MmaInput, std::array<float, 4>>& lanes) const {
    float a[16][16], b[8][16];
    for (uint32_t lane = 0; lane < 32; ++lane) {
      const MmaInput in = lanes.input(lane);
      const uint32_t g = lane / 4, t = lane % 4;
      for (uint32_t half = 0; half < 2; ++half) {
        const auto element = [half](uint32_t pair) { return widen(static_cast<uint16_t>(pair >> (16 * half))); };
        a[g][2 * t + half] = element(in.a[0]);
        a[g + 8][2 * t + half] = element(in.a[1]);
        a[g][2 * t + 8 + half] = element(in.a[2]);
        a[g + 8][2 * t + 8 + half] = element(in.a[3]);
        b[g][2 * t + half] = element(in.b[0]);
        b[g][2 * t + 8 + half] = element(in.b[1]);
      }
    }
    multiply_tiles(lanes, a, b);
  }
};

// m16n8k8 for tf32: the hardware ignores the low 13 bits of each operand.
struct MmaTf32 {
  void operator()(Lanes<MmaInput, std::array<float, 4>>& lanes) const {
    float a[16][8], b[8][8];
    const auto element = [](uint32_t bits) { return emulation_bit_cast<float>(bits & 0xffffe000u); };
    for (uint32_t lane = 0; lane < 32; ++lane) {
      const MmaInput in = lanes.input(lane);
      const uint32_t g = lane / 4, t = lane % 4;
      a[g][t] = element(in.a[0]);
      a[g + 8][t] = element(in.a[1]);
      a[g][t + 4] = element(in.a[2]);
      a[g + 8][t + 4] = element(in.a[3]);
      b[g][t] = element(in.b[0]);
      b[g][t + 4] = element(in.b[1]);
    }
    multiply_tiles(lanes, a, b);
  }
};

inline float widen_bfloat16(uint16_t bits) { return emulation_bit_cast<float>(uint32_t(bits) << 16); }

inline float widen_float16(uint16_t bits) {
  const float magnitude = (bits & 0x7c00u) == 0 ? std::ldexp(float(bits & 0x3ffu), -24)
                          : (bits & 0x7c00u) == 0x7c00u
                              ? emulation_bit_cast<float>(0x7f800000u | uint32_t(bits & 0x3ffu) << 13)
                              : emulation_bit_cast<float>((uint32_t(bits & 0x7fffu) << 13) + 0x38000000u);
  return (bits & 0x8000u) != 0 ? -magnitude : magnitude;
}

// Does what the PTX instruction of this name does.
inline void matrix_multiply(const char* instruction, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  MmaInput input;
  std::memcpy(input.a, a, sizeof(a));
  std::memcpy(input.b, b, sizeof(b));
  std::memcpy(input.c, d, sizeof(d));
  std::array<float, 4> out;
  if (std::strcmp(instruction, "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32") == 0) {
    out = meet<std::array<float, 4>, Mma16<widen_bfloat16>>(instruction, ~uint32_t{0}, input);
  } else if (std::strcmp(instruction, "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32") == 0) {
    out = meet<std::array<float, 4>, Mma16<widen_float16>>(instruction, ~uint32_t{0}, input);
  } else if (std::strcmp(instruction, "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32") == 0) {
    out = meet<std::array<float, 4>, MmaTf32>(instruction, ~uint32_t{0}, input);
  } else {
    fail(std::string("no host body for ") + instruction);
  }
  std::memcpy(d, out.data(), sizeof(d));
}

}  // namespace emulation
}  // namespace genlab
