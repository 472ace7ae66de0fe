// The tile registers: eight of 16 rows of 64 bytes.
#pragma once

struct TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

// A compiler may not know that the tile instructions read memory.
static inline void memory_is_read() { __asm__ volatile("" ::: "memory"); }

static inline void tile_begin() {
  TileConfig config;
  memset(&config, 0, sizeof(config));
  config.palette = 1;
  for (int i = 0; i < 8; ++i) {
    config.row_bytes[i] = 64;
    config.rows[i] = 16;
  }
  __asm__ volatile("" ::"r"(&config) : "memory");
  _tile_loadconfig(&config);
}

static inline void tile_end() { _tile_release(); }
