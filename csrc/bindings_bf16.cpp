// The bfloat16 kernels behind pointers and shapes, as bindings.cpp.
#include "bindings.h"
#include "cpu/bf16_kernels.h"

namespace py = pybind11;

namespace vggfast {
namespace {

const Bf16Kernels& kernels() {
  const char* why = nullptr;
  const Bf16Kernels* chosen = bf16_kernels(&why);
  if (chosen == nullptr) throw std::runtime_error(why);
  return *chosen;
}

long packed_size(long c_out, long c_in) {
  require(c_out >= 1 && c_in >= 1, "a dimension is out of range");
  return kernels().packed_size(c_out, c_in);
}

void pack(Pointer w, Pointer packed, long c_out, long c_in, int threads) {
  const ConvShape s = conv_shape(1, 1, 1, c_in, c_out, threads);
  require(w && packed, "w and packed must not be null");
  const Bf16Kernels& k = kernels();
  py::gil_scoped_release release;
  k.pack(values(w), values(packed), s.c_out, s.c_in, threads);
}

void conv3x3(Pointer x, Pointer w, Pointer packed, Pointer b, Pointer y, Pointer argmax, long n,
             long h, long width, long c_in, long c_out, bool relu, bool pool, int threads) {
  const ConvShape s = conv_shape(n, h, width, c_in, c_out, threads);
  require(x && w && y, "x, w and y must not be null");
  require(!pool || (h >= 2 && width >= 2), "a dimension is out of range");
  const Bf16Kernels& k = kernels();
  py::gil_scoped_release release;
  finish(k.conv3x3(values(x), values(w), values(packed), values(b), values(y), bytes(argmax), s,
                   relu, pool, threads));
}

void maxpool2x2(Pointer x, Pointer y, Pointer argmax, long n, long h, long width, long c,
                int threads) {
  const PoolShape s = pool_shape(n, h, width, c, true, threads);
  require(x && y, "x and y must not be null");
  const Bf16Kernels& k = kernels();
  py::gil_scoped_release release;
  finish(k.maxpool2x2(values(x), values(y), bytes(argmax), s, threads));
}

void maxpool2x2_backward(Pointer grad, Pointer argmax, Pointer dx, long n, long h, long width,
                         long c, int threads) {
  const PoolShape s = pool_shape(n, h, width, c, true, threads);
  require(grad && argmax && dx, "grad, argmax and dx must not be null");
  const Bf16Kernels& k = kernels();
  py::gil_scoped_release release;
  finish(k.maxpool2x2_backward(values(grad), bytes(argmax), values(dx), s, threads));
}

void linear(Pointer x, Pointer w, Pointer b, Pointer y, long m, long k, long o, bool relu,
            int threads) {
  check_linear(m, k, o, threads);
  require(x && w && y, "x, w and y must not be null");
  const Bf16Kernels& kernel = kernels();
  py::gil_scoped_release release;
  finish(kernel.linear(values(x), values(w), values(b), values(y), m, k, o, relu, threads));
}

}  // namespace

const char* bf16_isa(const char** why) {
  const Bf16Kernels* chosen = bf16_kernels(why);
  return chosen == nullptr ? nullptr : chosen->isa;
}

void bind_bf16(py::module_& m) {
  m.def("bf16_packed_size", &packed_size, py::arg("c_out"), py::arg("c_in"));
  m.def("bf16_pack", &pack, py::arg("w"), py::arg("packed"), py::arg("c_out"), py::arg("c_in"),
        py::arg("threads"));
  m.def("bf16_conv3x3", &conv3x3, py::arg("x"), py::arg("w"), py::arg("packed"), py::arg("b"),
        py::arg("y"), py::arg("argmax"), py::arg("n"), py::arg("h"), py::arg("width"),
        py::arg("c_in"), py::arg("c_out"), py::arg("relu"), py::arg("pool"), py::arg("threads"));
  m.def("bf16_maxpool2x2", &maxpool2x2, py::arg("x"), py::arg("y"), py::arg("argmax"), py::arg("n"),
        py::arg("h"), py::arg("width"), py::arg("c"), py::arg("threads"));
  m.def("bf16_maxpool2x2_backward", &maxpool2x2_backward, py::arg("grad"), py::arg("argmax"),
        py::arg("dx"), py::arg("n"), py::arg("h"), py::arg("width"), py::arg("c"),
        py::arg("threads"));
  m.def("bf16_linear", &linear, py::arg("x"), py::arg("w"), py::arg("b"), py::arg("y"),
        py::arg("m"), py::arg("k"), py::arg("o"), py::arg("relu"), py::arg("threads"));
}

}  // namespace vggfast
