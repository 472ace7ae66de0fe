// Softmax cross-entropy of one row x of K logits, with label smoothing e:
//
//   q_k = e / K + (1 - e) [k = label],   loss = -sum of q_k log softmax(x)_k
//   dloss/dx_k = softmax(x)_k - q_k,     log softmax(x)_k = (x_k - top) - log_sum
//
// with top the largest logit and log_sum the log of the sum of exp(x - top): their sum is not
// formed, it would lose log_sum beside large logits.
//
// A label outside 0 ... K - 1 makes the loss and the gradients of its row NaN.
#pragma once

#include "common/device.h"

namespace vggfast {

VGGFAST_HD inline bool label_allowed(i64 label, i64 classes) {
  return label >= 0 && label < classes;
}

struct Softmax {
  float top, log_sum;
};

VGGFAST_HD inline float log_softmax(float x, Softmax row) { return (x - row.top) - row.log_sum; }

// `sum` of x - top over the row, which counts only with smoothing.
VGGFAST_HD inline float row_loss(Softmax row, float at_label, float sum, i64 classes,
                                 float smoothing) {
  const float plain = -(1 - smoothing) * log_softmax(at_label, row);
  return smoothing == 0 ? plain : plain + smoothing * (row.log_sum - sum / classes);
}

VGGFAST_HD inline float logit_gradient(float x, Softmax row, bool is_label, i64 classes,
                                       float smoothing) {
  return expf(log_softmax(x, row)) - smoothing / classes - (is_label ? 1 - smoothing : 0.0f);
}

}  // namespace vggfast
