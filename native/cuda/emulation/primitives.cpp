#include "cuda/emulation/primitives.h"

#include "cuda/emulation/findings.h"
#include "cuda/emulation/memory.h"

namespace omni_id::emulation {

namespace {

constexpr int kLanes = 32;

float low(unsigned pair) { return __uint_as_float(pair << 16); }
float high(unsigned pair) { return __uint_as_float(pair & 0xffff0000u); }
float tf32(unsigned bits) { return __uint_as_float(bits & 0xffffe000u); }

struct Product {
  uint4 a;
  uint2 b;
  float4 d;
};

// The f32 next to x on the side of zero.
float cut_off(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits &= ~((uint64_t{1} << 29) - 1);  // 24 of 53 bits stay; what is infinite or not a number stays that
  std::memcpy(&x, &bits, sizeof bits);
  return static_cast<float>(x);
}

// d += a · b of a warp: a [16, k] by rows, b [k, 8] by rows. As tensor cores of 8.x do: the sum of d and a group of products is
// exact and then cut off, not rounded (Fasi, Higham, Mikaitis and Pranesh, "Numerical behavior of NVIDIA tensor cores", PeerJ
// Computer Science 7, 2021; of 9.0 and later groups are larger, and errors smaller).
template <int k, int group>
void multiply(void* const* slots, const float (&a)[16][k], const float (&b)[k][8]) {
  for (int lane = 0; lane < kLanes; ++lane) {
    Product& mine = *static_cast<Product*>(slots[lane]);
    const int g = lane / 4, t = lane % 4;
    float* d[4] = {&mine.d.x, &mine.d.y, &mine.d.z, &mine.d.w};
    for (int i = 0; i < 4; ++i) {
      const int row = g + i / 2 * 8, column = 2 * t + i % 2;
      float sum = *d[i];
      for (int first = 0; first < k; first += group) {
        double exact = 0.0;
        for (int j = first; j < first + group; ++j) exact += static_cast<double>(a[row][j]) * static_cast<double>(b[j][column]);
        sum = cut_off(exact + static_cast<double>(sum));
      }
      *d[i] = sum;
    }
  }
}

}  // namespace

uint4 load_matrices(Place at, const void* row, bool transposed) {
  struct Slot {
    const uint16_t* row;
    uint4 result;
    bool transposed;
  } slot{static_cast<const uint16_t*>(row), {}, transposed};
  access(row, 16, false, at);
  with_warp(at, "ldmatrix", 0xffffffffu, &slot, [](void* const* slots) {
    const Slot& first = *static_cast<Slot*>(slots[0]);
    for (int lane = 0; lane < kLanes; ++lane) {
      Slot& mine = *static_cast<Slot*>(slots[lane]);
      unsigned* result[4] = {&mine.result.x, &mine.result.y, &mine.result.z, &mine.result.w};
      for (int matrix = 0; matrix < 4; ++matrix) {
        uint16_t element[2];
        for (int i = 0; i < 2; ++i) {
          const int r = first.transposed ? lane % 4 * 2 + i : lane / 4, c = first.transposed ? lane / 4 : lane % 4 * 2 + i;
          element[i] = static_cast<Slot*>(slots[matrix * 8 + r])->row[c];
        }
        *result[matrix] = element[0] | static_cast<unsigned>(element[1]) << 16;
      }
    }
  });
  return slot.result;
}

float4 multiply_bf16(Place at, uint4 a, uint2 b, float4 d) {
  Product product{a, b, d};
  with_warp(at, "mma", 0xffffffffu, &product, [](void* const* slots) {
    float left[16][16], right[16][8];
    for (int lane = 0; lane < kLanes; ++lane) {
      const Product& one = *static_cast<Product*>(slots[lane]);
      const int g = lane / 4, t = lane % 4 * 2;
      left[g][t] = low(one.a.x), left[g][t + 1] = high(one.a.x);
      left[g + 8][t] = low(one.a.y), left[g + 8][t + 1] = high(one.a.y);
      left[g][t + 8] = low(one.a.z), left[g][t + 9] = high(one.a.z);
      left[g + 8][t + 8] = low(one.a.w), left[g + 8][t + 9] = high(one.a.w);
      right[t][g] = low(one.b.x), right[t + 1][g] = high(one.b.x);
      right[t + 8][g] = low(one.b.y), right[t + 9][g] = high(one.b.y);
    }
    multiply<16, 8>(slots, left, right);
  });
  return product.d;
}

float4 multiply_tf32(Place at, uint4 a, uint2 b, float4 d) {
  Product product{a, b, d};
  with_warp(at, "mma", 0xffffffffu, &product, [](void* const* slots) {
    float left[16][8], right[8][8];
    for (int lane = 0; lane < kLanes; ++lane) {
      const Product& one = *static_cast<Product*>(slots[lane]);
      const int g = lane / 4, t = lane % 4;
      left[g][t] = tf32(one.a.x);
      left[g + 8][t] = tf32(one.a.y);
      left[g][t + 4] = tf32(one.a.z);
      left[g + 8][t + 4] = tf32(one.a.w);
      right[t][g] = tf32(one.b.x);
      right[t + 4][g] = tf32(one.b.y);
    }
    multiply<8, 4>(slots, left, right);
  });
  return product.d;
}

void copy_async(Place at, void* shared, const void* global, int bytes, int valid) {
  start_copy(static_cast<std::byte*>(shared), static_cast<const std::byte*>(global), static_cast<size_t>(bytes),
             static_cast<size_t>(valid), at);
}

void access_vector(Place at, const void* address, size_t bytes, bool write) { access(address, bytes, write, at); }

void copy_unseen(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }

}  // namespace omni_id::emulation
