// Index arithmetic of the 3x3 convolution for Hopper (cuda/conv3x3_sm90.cu), for device and host:
// the kernel runs on it, and a test on the CPU follows every address through it.
//
// A warpgroup makes 64 output channels (M) of `images` x `rows` x `width` output pixels (N). The
// inputs of a tile lie in shared memory as a flat list of positions, with their halo, in rows of
// `pitch` and images of `box_rows` rows. Output pixel (i, r, c) has the position
// (i * box_rows + r) * pitch + c, and tap (dr, ds) reads the input that lies dr * pitch + ds
// positions further on: one product over consecutive positions serves a tap. Positions that are no
// output pixel (c >= width and so on) are computed too and dropped.
//
// Where a tile spans the whole map, the zero column on the left of a row is also the one on the
// right of the row before (pitch = width + 1), and the zero row above an image also the one below
// the image before (box_rows = rows + 1). Behind the last one `zeroed` positions are kept zero by
// the kernel.
//
// Two ways x can lie in shared memory (box order is what TMA writes):
//   slabs     [8 slabs of 8 channels][position][16 bytes], wgmma's K-major layout without swizzle:
//   core
//             matrices of 8 positions x 16 bytes. A shift by a position is 16 bytes.
//   swizzled  [position][128 bytes], 16-byte chunks exchanged as TMA's 128-byte swizzle does. A
//   shift
//             by a position is 128 bytes, which starts inside the swizzle's period of 8 positions.
#pragma once

#include <stdint.h>

#include "common/argmax.h"

namespace vggfast {
namespace sm90 {

enum : int {
  TAPS = 9,
  K_BLOCK = 64,    // input channels of a block: 128 bytes
  K_STEP = 16,     // input channels of a wgmma
  CHUNK = 16,      // bytes of 8 channels
  ROW = 128,       // bytes of a staged output position: 64 channels
  WARPGROUPS = 2,  // that compute
  X_STAGES = 2,
  MOST_W_STAGES = 8,
  SHARED_LIMIT = 232448,
};

// The forms of x in shared memory. The last two differ in the descriptor's base offset.
enum XForm : int { SLABS = 0, SWIZZLED = 1, SWIZZLED_OFFSET = 2 };

struct Plan {
  int n, h, w, c_in, c_out;
  int form;                 // XForm
  int columns;              // N of the wgmma
  int cluster;              // blocks that share their weights
  int block;                // output channels of a tile: 128, or 64
  int groups;               // 128 / block: the warpgroups share the channels or the rows
  int images, rows, width;  // output pixels of a warpgroup
  int pitch, box_rows;      // the flat list
  int zeroed;               // positions behind it that have to read as zero
  int part_rows, parts;     // the epilogue stages part_rows rows at a time
  int tiles_n, tiles_h, tiles_w;
  int units;  // tiles_n * tiles_h * tiles_w / cluster * channel blocks
  int w_stages;
  int x_stage_bytes, w_stage_bytes, staging_bytes;            // of one
  int w_at, staging_at, table_at, barriers_at, shared_bytes;  // places in shared memory
};

VGGFAST_SHARED int positions(const Plan& p) { return p.images * p.box_rows * p.pitch; }

// The part of the flat list that the products of a tile touch, dropped outputs included.
VGGFAST_SHARED int positions_read(const Plan& p) {
  return (p.groups - 1) * p.rows * p.pitch + p.columns + 2 * p.pitch + 2;
}

struct Tile {
  int n0, h0, w0, c0;
};

// Channel blocks run fastest, so blocks that share x run side by side. A cluster's blocks take
// consecutive tiles of the same channels; past the end n0 >= n, and such a tile is empty.
VGGFAST_SHARED Tile place(const Plan& p, int unit, int rank) {
  const int channel_blocks = p.c_out / p.block;
  int tile = unit / channel_blocks * p.cluster + rank;
  const int w0 = tile % p.tiles_w * p.width;
  tile /= p.tiles_w;
  const int h0 = tile % p.tiles_h * (p.rows * p.groups);
  return {tile / p.tiles_h * p.images, h0, w0, unit % channel_blocks * p.block};
}

// ---- What wgmma reads ----

// A matrix in shared memory, K-major. lead: bytes from 8 channels to the next 8 (unused with
// swizzle); stride: bytes from 8 rows (channels out, or positions) to the next 8. PTX ISA, "matrix
// descriptor".
VGGFAST_SHARED uint64_t descriptor(uint32_t start, uint32_t lead, uint32_t stride, bool swizzled) {
  return static_cast<uint64_t>((start & 0x3FFFF) >> 4) | static_cast<uint64_t>(lead >> 4) << 16 |
         static_cast<uint64_t>(stride >> 4) << 32 | static_cast<uint64_t>(swizzled ? 1 : 0) << 62;
}

VGGFAST_SHARED uint64_t x_descriptor(const Plan& p, uint32_t stage) {
  return p.form == SLABS ? descriptor(stage, positions(p) * CHUNK, 8 * CHUNK, false)
                         : descriptor(stage, CHUNK, 8 * ROW, true);
}

VGGFAST_SHARED uint64_t w_descriptor(const Plan& p, uint32_t stage, int warpgroup) {
  const int first = p.groups == 1 ? 64 * warpgroup : 0;
  return descriptor(stage + first * CHUNK, p.block * CHUNK, 8 * CHUNK, false);
}

// Where a warpgroup's input starts for a tap.
VGGFAST_SHARED int first_position(const Plan& p, int warpgroup, int tap) {
  const int row = (p.groups == 1 ? 0 : warpgroup * p.rows) + tap / 3;
  return row * p.pitch + tap % 3;
}

// What is added to a descriptor: its address counts in units of 16 bytes.
VGGFAST_SHARED uint64_t x_advance(const Plan& p, int position) {
  if (p.form == SLABS) return static_cast<uint64_t>(position);
  const uint64_t base = p.form == SWIZZLED_OFFSET ? position & 7 : 0;
  return static_cast<uint64_t>(position) * (ROW / CHUNK) | base << 49;
}
VGGFAST_SHARED uint64_t x_k_advance(const Plan& p) {
  return p.form == SLABS ? 2 * positions(p) : K_STEP * 2 / CHUNK;
}
VGGFAST_SHARED uint64_t w_k_advance(const Plan& p) { return 2 * p.block; }

// ---- Packed weights: [channel block][64 inputs][tap][8 inputs][outputs of the block][8 inputs]
// ----

struct WeightShape {
  int c_in, c_out, block;
};

VGGFAST_SHARED int channel_block(long c_out) { return c_out % 128 == 0 ? 128 : 64; }

VGGFAST_SHARED long packed_step(const WeightShape& s, int channel_block, int k_block, int tap) {
  const long blocks = s.c_in / K_BLOCK;
  return ((channel_block * blocks + k_block) * TAPS + tap) * K_BLOCK * s.block;
}

// Where element i of the packed weights comes from in w (C_out, C_in, 3, 3). Rotated, w is
// (c_in, c_out, 3, 3): the weights of the convolution whose dgrad this is.
VGGFAST_SHARED long packed_source(const WeightShape& s, long i, bool rotated) {
  const int inner = static_cast<int>(i % 8);
  i /= 8;
  const int out = static_cast<int>(i % s.block);
  i /= s.block;
  const int slab = static_cast<int>(i % (K_BLOCK / 8));
  i /= K_BLOCK / 8;
  const int tap = static_cast<int>(i % TAPS);
  i /= TAPS;
  const long ci = i % (s.c_in / K_BLOCK) * K_BLOCK + slab * 8 + inner;
  const long co = i / (s.c_in / K_BLOCK) * s.block + out;
  return rotated ? (ci * s.c_out + co) * TAPS + (TAPS - 1 - tap) : (co * s.c_in + ci) * TAPS + tap;
}

// ---- The epilogue: sums to [position][64 channels], dense, chunks swizzled as TMA stores expect
// ----

enum : int { DROPPED = 0xFFFF };

// The staged row of a position, in the order [image][row][column]; DROPPED if it is no output
// pixel.
VGGFAST_SHARED int staged_row(const Plan& p, int position) {
  const int c = position % p.pitch, line = position / p.pitch;
  const int r = line % p.box_rows, i = line / p.box_rows;
  const bool is_output = c < p.width && r < p.rows && i < p.images;
  return is_output ? (i * p.rows + r) * p.width + c : DROPPED;
}

VGGFAST_SHARED int part_positions(const Plan& p) { return p.images * p.part_rows * p.width; }

// Byte of 16-byte chunk `chunk` (8 channels) of a row in a staging buffer.
VGGFAST_SHARED int staged_byte(int row, int chunk) {
  return row * ROW + ((chunk ^ (row & 7)) * CHUNK);
}

// Where a lane of stmatrix.x4.trans points for the columns 8j to 8j + 15: matrices 0 and 1 are
// channels 0 to 7 and 8 to 15 of the warp's 16 at columns 8j on, 2 and 3 the same at columns 8j + 8
// on.
VGGFAST_SHARED int store_column(int j, int lane) { return 8 * (j + lane / 16) + lane % 8; }
VGGFAST_SHARED int store_byte(const Plan& p, int part, int row, int warp, int lane) {
  const int count = part_positions(p), local = row - part * count;
  // What is dropped goes to a row of its own behind the others.
  const int target = row != DROPPED && local >= 0 && local < count ? local : count;
  return staged_byte(target, 2 * warp + lane / 8 % 2);
}

// Whether columns 8j to 8j + 15 hold an output of this part.
VGGFAST_SHARED bool in_part(const Plan& p, int part, int j) {
  if (p.parts == 1) return true;
  const int first = part * p.part_rows * p.pitch;
  return 8 * j + 16 > first && 8 * j < first + p.part_rows * p.pitch;
}

// A pooled output: which image, row and column of the part, and its upper left staged row.
struct Window {
  int image, row, column, corner;
};

VGGFAST_SHARED int windows(const Plan& p) { return part_positions(p) / 4; }
VGGFAST_SHARED Window window(const Plan& p, int k) {
  const int wo = p.width / 2, ho = p.part_rows / 2;
  const int column = k % wo, row = k / wo % ho, image = k / wo / ho;
  return {image, row, column, (image * p.part_rows + 2 * row) * p.width + 2 * column};
}

}  // namespace sm90
}  // namespace vggfast
