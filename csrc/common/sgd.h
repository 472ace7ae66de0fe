// One element of stochastic gradient descent, as torch.optim.SGD defines it.
#pragma once

#include "common/device.h"

namespace vggfast {

struct SgdStep {
  float lr, momentum, undamped, weight_decay;  // undamped: 1 - dampening
  int nesterov, maximize;
};

// Updates `param`, and `buffer` where there is momentum. On a parameter's first step the buffer
// holds nothing yet and takes the gradient undamped. Each fmaf is one `add` of torch.
VGGFAST_HD inline void sgd_update(float& param, float grad, float& buffer, bool first,
                                  const SgdStep& step) {
  if (step.maximize) grad = -grad;
  if (step.weight_decay != 0) grad = fmaf(step.weight_decay, param, grad);
  if (step.momentum != 0) {
    if (first) {
      buffer = grad;
    } else {
      // The product is rounded first, in torch too: a statement of its own is not enough, nvcc
      // would contract it.
#ifdef __CUDA_ARCH__
      const float kept = __fmul_rn(step.momentum, buffer);
#else
      const float kept = step.momentum * buffer;
#endif
      buffer = fmaf(step.undamped, grad, kept);
    }
    grad = step.nesterov ? fmaf(step.momentum, buffer, grad) : buffer;
  }
  param = fmaf(-step.lr, grad, param);
}

}  // namespace vggfast
