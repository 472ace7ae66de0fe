// vggfast._native: the C++/CUDA kernels behind pointers and shapes. No torch header is included, so
// one build serves every torch version. Python (vggfast/backends) checks shapes, dtypes and layout;
// here only what memory safety needs is checked again.
#include <pybind11/pybind11.h>

#include <string.h>

#include <string>

#include "bindings.h"
#include "cpu/memory.h"
#include "cpu/threads.h"

namespace py = pybind11;
using vggfast::bytes;
using vggfast::ConvShape;
using vggfast::CpuKernels;
using vggfast::finish;
using vggfast::Gradient;
using vggfast::Pointer;
using vggfast::PoolShape;
using vggfast::require;
using vggfast::Tiling;
using vggfast::WinogradForm;

namespace {

float* floats(Pointer p) { return reinterpret_cast<float*>(p); }

const CpuKernels& kernels() {
  const char* error = nullptr;
  const CpuKernels* chosen = vggfast::cpu_kernels(&error);
  if (chosen == nullptr) throw std::runtime_error(error);
  return *chosen;
}

void conv3x3(Pointer x, Pointer w, Pointer b, Pointer y, Pointer argmax, long n, long h, long width,
             long c_in, long c_out, bool relu, bool pool, int threads) {
  const ConvShape s = vggfast::conv_shape(n, h, width, c_in, c_out, threads);
  require(x && w && y, "x, w and y must not be null");
  const CpuKernels& k = kernels();
  py::gil_scoped_release release;
  finish(
      k.conv3x3(floats(x), floats(w), floats(b), floats(y), bytes(argmax), s, relu, pool, threads));
}

void conv3x3_dgrad(Pointer dz, Pointer y, Pointer w, Pointer dx, long n, long h, long width,
                   long c_in, long c_out, int threads) {
  const ConvShape s = vggfast::conv_shape(n, h, width, c_in, c_out, threads);
  require(dz && w && dx, "dz, w and dx must not be null");
  require(y == 0 || c_in <= vggfast::IMAGE_CHANNELS, "y must be null beyond an image's channels");
  const CpuKernels& k = kernels();
  py::gil_scoped_release release;
  finish(k.conv3x3_dgrad(floats(dz), floats(y), floats(w), floats(dx), s, threads));
}

WinogradForm winograd_form(int m, bool split) {
  require(m == 2 || m == 4 || m == 6, "m: 2, 4 or 6");
  require(!split || kernels().splits, "split: needs AMX");
  return {m, split};
}

Tiling winograd_tiling(int m, bool split, long tiles, long outputs) {
  require(tiles >= 1, "tiles: at least 1");
  return {winograd_form(m, split), tiles, outputs};
}

long winograd_floats(long outs, long ins, int m, bool split) {
  require(outs >= 1 && ins >= 1, "a dimension is out of range");
  return kernels().winograd_floats(outs, ins, winograd_form(m, split));
}

void winograd_weights(Pointer w, Pointer u, long c_out, long c_in, bool rotated, int m, bool split,
                      int threads) {
  const ConvShape s = vggfast::conv_shape(1, 1, 1, c_in, c_out, threads);
  const WinogradForm form = winograd_form(m, split);
  require(w && u && u % 64 == 0, "w and u must not be null, u a multiple of 64");
  const CpuKernels& k = kernels();
  py::gil_scoped_release release;
  finish(k.winograd_weights(floats(w), floats(u), s.c_out, s.c_in, rotated, form, threads));
}

void conv3x3_winograd(Pointer x, Pointer w, Pointer u, Pointer b, Pointer y, Pointer argmax, long n,
                      long h, long width, long c_in, long c_out, bool relu, bool pool, int m,
                      bool split, long tiles, long outputs, int threads) {
  const ConvShape s = vggfast::conv_shape(n, h, width, c_in, c_out, threads);
  const Tiling tiling = winograd_tiling(m, split, tiles, outputs);
  require(x && w && y && u % 64 == 0, "x, w and y must not be null, u a multiple of 64");
  const CpuKernels& k = kernels();
  py::gil_scoped_release release;
  finish(k.conv3x3_winograd(floats(x), floats(w), floats(u), floats(b), floats(y), bytes(argmax), s,
                            relu, pool, tiling, threads));
}

// dz itself (y and argmax null), or what it is made from.
Gradient gradient(Pointer grad, Pointer y, Pointer argmax, ConvShape s) {
  require(grad, "grad must not be null");
  require(argmax ? s.h >= 2 && s.w >= 2 : !y, "argmax: out of range for this map, or null with y");
  return {floats(grad), floats(y), bytes(argmax)};
}

void conv3x3_dgrad_winograd(Pointer grad, Pointer y, Pointer argmax, Pointer w, Pointer u,
                            Pointer dx, long n, long h, long width, long c_in, long c_out, int m,
                            bool split, long tiles, long outputs, int threads) {
  const ConvShape s = vggfast::conv_shape(n, h, width, c_in, c_out, threads);
  const Tiling tiling = winograd_tiling(m, split, tiles, outputs);
  const Gradient dz = gradient(grad, y, argmax, s);
  require(w && dx && u % 64 == 0, "w and dx must not be null, u a multiple of 64");
  const CpuKernels& k = kernels();
  py::gil_scoped_release release;
  finish(k.conv3x3_dgrad_winograd(dz, floats(w), floats(u), floats(dx), s, tiling, threads));
}

void conv3x3_wgrad(Pointer x, Pointer dz, Pointer dw, long n, long h, long width, long c_in,
                   long c_out, int threads) {
  const ConvShape s = vggfast::conv_shape(n, h, width, c_in, c_out, threads);
  require(x && dz && dw && n >= 1, "x, dz and dw must not be null, N at least 1");
  const CpuKernels& k = kernels();
  py::gil_scoped_release release;
  finish(k.conv3x3_wgrad(floats(x), floats(dz), floats(dw), s, threads));
}

void conv3x3_wgrad_winograd(Pointer x, Pointer grad, Pointer y, Pointer argmax, Pointer dw, long n,
                            long h, long width, long c_in, long c_out, int m, bool split,
                            long chunk, int threads) {
  const ConvShape s = vggfast::conv_shape(n, h, width, c_in, c_out, threads);
  const Tiling tiling = winograd_tiling(m, split, chunk, 1);
  const Gradient dz = gradient(grad, y, argmax, s);
  require(x && dw && n >= 1, "x and dw must not be null, N at least 1");
  const CpuKernels& k = kernels();
  py::gil_scoped_release release;
  finish(k.conv3x3_wgrad_winograd(floats(x), dz, floats(dw), s, tiling, threads));
}

void conv3x3_dz(Pointer grad, Pointer y, Pointer argmax, Pointer dz, Pointer db, long n, long h,
                long width, long c, int threads) {
  const PoolShape s = vggfast::pool_shape(n, h, width, c, argmax != 0, threads);
  require(grad != 0 && n >= 1, "grad must not be null, N at least 1");
  const CpuKernels& k = kernels();
  py::gil_scoped_release release;
  finish(k.conv3x3_dz(floats(grad), floats(y), bytes(argmax), floats(dz), floats(db), s, threads));
}

void maxpool2x2(Pointer x, Pointer y, Pointer argmax, long n, long h, long width, long c,
                int threads) {
  const PoolShape s = vggfast::pool_shape(n, h, width, c, true, threads);
  require(x && y, "x and y must not be null");
  const CpuKernels& k = kernels();
  py::gil_scoped_release release;
  finish(k.maxpool2x2(floats(x), floats(y), bytes(argmax), s, threads));
}

void maxpool2x2_backward(Pointer grad, Pointer argmax, Pointer dx, long n, long h, long width,
                         long c, int threads) {
  const PoolShape s = vggfast::pool_shape(n, h, width, c, true, threads);
  require(grad && argmax && dx, "grad, argmax and dx must not be null");
  const CpuKernels& k = kernels();
  py::gil_scoped_release release;
  finish(k.maxpool2x2_backward(floats(grad), bytes(argmax), floats(dx), s, threads));
}

void linear(Pointer x, Pointer w, Pointer b, Pointer y, long m, long k, long o, bool relu,
            int threads) {
  vggfast::check_linear(m, k, o, threads);
  require(x && w && y, "x, w and y must not be null");
  const CpuKernels& kernel = kernels();
  py::gil_scoped_release release;
  finish(kernel.linear(floats(x), floats(w), floats(b), floats(y), m, k, o, relu, threads));
}

void linear_bf16_weights(Pointer x, Pointer w, Pointer b, Pointer y, long m, long k, long o,
                         bool relu, int threads) {
  vggfast::check_linear(m, k, o, threads);
  require(x && w && y, "x, w and y must not be null");
  const CpuKernels& kernel = kernels();
  py::gil_scoped_release release;
  finish(kernel.linear_bf16_weights(floats(x), vggfast::values(w), floats(b), floats(y), m, k, o,
                                    relu, threads));
}

void linear_dgrad(Pointer grad, Pointer w, Pointer dx, long m, long k, long o, int threads) {
  vggfast::check_linear(m, k, o, threads);
  require(grad && w && dx, "grad, w and dx must not be null");
  const CpuKernels& kernel = kernels();
  py::gil_scoped_release release;
  finish(kernel.linear_dgrad(floats(grad), floats(w), floats(dx), m, k, o, threads));
}

void linear_wgrad(Pointer grad, Pointer x, Pointer dw, long m, long k, long o, int threads) {
  vggfast::check_linear(m, k, o, threads);
  require(grad && x && dw, "grad, x and dw must not be null");
  const CpuKernels& kernel = kernels();
  py::gil_scoped_release release;
  finish(kernel.linear_wgrad(floats(grad), floats(x), floats(dw), m, k, o, threads));
}

// Memory of a large result; it goes back to the kept blocks with the last tensor that uses it.
class Memory {
 public:
  explicit Memory(long count) : floats_(nullptr), count_(count) {
    require(count >= 1, "floats: at least 1");
    floats_ = vggfast::memory_acquire(count);
    finish(floats_ != nullptr);
  }
  ~Memory() { vggfast::memory_release(floats_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  py::buffer_info buffer() { return py::buffer_info(floats_, count_); }

 private:
  float* floats_;
  long count_;
};

// A few of the values at `p`, as a number: tells weights that changed behind torch's back.
uint64_t fingerprint(Pointer p, long count) {
  require(p != 0 && count >= 1, "p must not be null, count at least 1");
  enum { SAMPLES = 32 };
  uint64_t hash = 14695981039346656037u;  // FNV-1a
  for (long i = 0; i < SAMPLES; ++i) {
    uint32_t bits;
    memcpy(&bits, floats(p) + (count - 1) * i / (SAMPLES - 1), sizeof(bits));
    hash = (hash ^ bits) * 1099511628211u;
  }
  return hash;
}

py::dict build_config() {
  py::dict config;
  config["cpu_isa"] = kernels().isa;
  config["cpu_splits"] = kernels().splits;
  const char* why = nullptr;
  const char* bf16 = vggfast::bf16_isa(&why);
  config["bf16_isa"] = bf16 == nullptr ? py::object(py::none()) : py::str(bf16);
  config["bf16_why_not"] = bf16 == nullptr ? py::object(py::str(why)) : py::none();
#ifdef _OPENMP
  config["openmp"] = true;
#else
  config["openmp"] = false;
#endif
  vggfast::cuda_config(config);
  config["compiler"] = __VERSION__;
  return config;
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "CPU and CUDA kernels of vggfast: pointers, shapes and a thread count or a stream.";
  m.def("build_config", &build_config, "What this build holds and which CPU kernels it chose.");
  m.def("conv3x3", &conv3x3, py::arg("x"), py::arg("w"), py::arg("b"), py::arg("y"),
        py::arg("argmax"), py::arg("n"), py::arg("h"), py::arg("width"), py::arg("c_in"),
        py::arg("c_out"), py::arg("relu"), py::arg("pool"), py::arg("threads"));
  m.def("conv3x3_dgrad", &conv3x3_dgrad, py::arg("dz"), py::arg("y"), py::arg("w"), py::arg("dx"),
        py::arg("n"), py::arg("h"), py::arg("width"), py::arg("c_in"), py::arg("c_out"),
        py::arg("threads"));
  py::class_<Memory>(m, "Memory", py::buffer_protocol(), "Floats for a large result.")
      .def(py::init<long>(), py::arg("floats"))
      .def_buffer(&Memory::buffer);
  m.def("memory_kept_bytes", &vggfast::memory_kept_bytes, "Bytes of memory kept for later calls.");
  m.def("memory_clear", &vggfast::memory_clear, "Returns that memory to the system.");
  m.def("end_threads", &vggfast::end_threads, "Before a fork: csrc/cpu/threads.h.");
  m.def("fingerprint", &fingerprint, py::arg("p"), py::arg("count"));
  m.def("winograd_floats", &winograd_floats, py::arg("outs"), py::arg("ins"), py::arg("m"),
        py::arg("split"));
  m.def("winograd_weights", &winograd_weights, py::arg("w"), py::arg("u"), py::arg("c_out"),
        py::arg("c_in"), py::arg("rotated"), py::arg("m"), py::arg("split"), py::arg("threads"));
  m.def("conv3x3_winograd", &conv3x3_winograd, py::arg("x"), py::arg("w"), py::arg("u"),
        py::arg("b"), py::arg("y"), py::arg("argmax"), py::arg("n"), py::arg("h"), py::arg("width"),
        py::arg("c_in"), py::arg("c_out"), py::arg("relu"), py::arg("pool"), py::arg("m"),
        py::arg("split"), py::arg("tiles"), py::arg("outputs"), py::arg("threads"));
  m.def("conv3x3_dgrad_winograd", &conv3x3_dgrad_winograd, py::arg("grad"), py::arg("y"),
        py::arg("argmax"), py::arg("w"), py::arg("u"), py::arg("dx"), py::arg("n"), py::arg("h"),
        py::arg("width"), py::arg("c_in"), py::arg("c_out"), py::arg("m"), py::arg("split"),
        py::arg("tiles"), py::arg("outputs"), py::arg("threads"));
  m.def("conv3x3_wgrad", &conv3x3_wgrad, py::arg("x"), py::arg("dz"), py::arg("dw"), py::arg("n"),
        py::arg("h"), py::arg("width"), py::arg("c_in"), py::arg("c_out"), py::arg("threads"));
  m.def("conv3x3_wgrad_winograd", &conv3x3_wgrad_winograd, py::arg("x"), py::arg("grad"),
        py::arg("y"), py::arg("argmax"), py::arg("dw"), py::arg("n"), py::arg("h"),
        py::arg("width"), py::arg("c_in"), py::arg("c_out"), py::arg("m"), py::arg("split"),
        py::arg("chunk"), py::arg("threads"));
  m.def("conv3x3_dz", &conv3x3_dz, py::arg("grad"), py::arg("y"), py::arg("argmax"), py::arg("dz"),
        py::arg("db"), py::arg("n"), py::arg("h"), py::arg("width"), py::arg("c"),
        py::arg("threads"));
  m.def("maxpool2x2", &maxpool2x2, py::arg("x"), py::arg("y"), py::arg("argmax"), py::arg("n"),
        py::arg("h"), py::arg("width"), py::arg("c"), py::arg("threads"));
  m.def("maxpool2x2_backward", &maxpool2x2_backward, py::arg("grad"), py::arg("argmax"),
        py::arg("dx"), py::arg("n"), py::arg("h"), py::arg("width"), py::arg("c"),
        py::arg("threads"));
  m.def("linear", &linear, py::arg("x"), py::arg("w"), py::arg("b"), py::arg("y"), py::arg("m"),
        py::arg("k"), py::arg("o"), py::arg("relu"), py::arg("threads"));
  m.def("linear_bf16_weights", &linear_bf16_weights, py::arg("x"), py::arg("w"), py::arg("b"),
        py::arg("y"), py::arg("m"), py::arg("k"), py::arg("o"), py::arg("relu"),
        py::arg("threads"));
  vggfast::bind_bf16(m);
  m.def("linear_dgrad", &linear_dgrad, py::arg("grad"), py::arg("w"), py::arg("dx"), py::arg("m"),
        py::arg("k"), py::arg("o"), py::arg("threads"));
  m.def("linear_wgrad", &linear_wgrad, py::arg("grad"), py::arg("x"), py::arg("dw"), py::arg("m"),
        py::arg("k"), py::arg("o"), py::arg("threads"));
#if VGGFAST_WITH_CUDA
  vggfast::bind_sm90(m);
#endif
  vggfast::bind_cuda(m);
}
