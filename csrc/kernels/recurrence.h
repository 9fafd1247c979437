// Parameters of the scan over time of the recurrent cells: Elman's RNN, the LSTM and the GRU, forward and backward. No torch.
//
// What does not depend on the previous step is done outside, for all steps as one matrix product: the scan is handed
//     input(row, d, :) = weight_ih x
// and adds the biases and the recurrent part. With h' = mask * h_{t-1} (mask 1 where there is none), u = input + bias_ih and
// p = weight h' + bias_hh, gates as torch orders them, one step of a cell is
//     RNN   h = tanh(u + p)   or relu(u + p)
//     LSTM  i, f, g, o = sigmoid, sigmoid, tanh, sigmoid of (u + p)     c = f c_{t-1} + i g     h = o tanh(c)
//     GRU   r, z = sigmoid(u + p)    q = p_n    n = tanh(u_n + r q)    h = (1 - z) n + z h_{t-1}
// The mask is in the product only (Gal & Ghahramani 2016): the GRU's z h_{t-1} and the LSTM's cell do not see it.
//
// Rows. Sequences lie in order of decreasing length. A row is one step of one sequence, steps outermost: step t has the rows
// offsets[t] .. offsets[t + 1] - 1, one for each sequence that still runs, sequence b in row offsets[t] + b; `rows` in all.
// Without offsets every sequence has all steps: row(t, b) = t * batch + b, rows = steps * batch. Direction 0 runs through the
// steps upwards, direction 1 downwards; a sequence starts from h0 and c0 at the first of its steps in that order, and its
// state after the last of them is h_n and c_n. A sequence without steps (steps == 0) has h_n = h0, c_n = c0.
//
// Every tensor is contiguous, in row-major order of the dimensions given. T is `dtype`; the accumulation type A is double for
// float64, else float. Products and states are carried in A from step to step (h and c are not rounded between steps, except
// that the product reads h' rounded to T); what is stored is rounded to T.
//
// G = recurrence_gates(cell), D = directions (1 or 2), B = batch, H = hidden.
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"

namespace genlab {

enum class Cell : int { kRnnTanh = 0, kRnnRelu = 1, kLstm = 2, kGru = 3 };

// Gates of a cell: rows of weight_hh over H.
constexpr int64_t recurrence_gates(Cell cell) { return cell == Cell::kLstm ? 4 : cell == Cell::kGru ? 3 : 1; }

struct RecurrenceParams {
  Cell cell;
  DType dtype;
  int64_t steps, batch, hidden, directions;
  int64_t rows;
  const int64_t* offsets;  // [steps + 1], where the kernel runs (host or device memory); null: all sequences equally long
  const void* input;       // T [rows, D, G * H]
  const void* weight[2];   // T [G * H, H], weight_hh of each direction; weight[1] null where D == 1
  const void* bias_ih[2];  // T [G * H] of each direction; null for 0
  const void* bias_hh[2];  // T [G * H] of each direction; null for 0
  const void* mask;        // T [D, B, H], factors of h_{t-1} in the product (0 or 1 / (1 - p)); null for none
  const void* h0;          // T [D, B, H]; null for 0
  const void* c0;          // T [D, B, H], LSTM only; null for 0
  void* output;            // T [rows, D, H], h of every row
  void* h_n;               // T [D, B, H]
  void* c_n;               // T [D, B, H], LSTM only
  // Kept for the gradient; null, all of them, where none is wanted.
  void* gates;      // T [rows, D, G * H], after their nonlinearity: LSTM i, f, g, o; GRU r, z, n; null for RNN. May be `input`
  void* cells;      // T [rows, D, H], LSTM only: c of every row
  void* candidate;  // T [rows, D, H], GRU only: q of every row
  void* workspace;  // CUDA only: recurrence_workspace_bytes(...) bytes, holding anything
};

struct RecurrenceBackwardParams {
  Cell cell;
  DType dtype;
  int64_t steps, batch, hidden, directions;
  int64_t rows;
  const int64_t* offsets;   // as forward
  const void* grad_output;  // T [rows, D, H]; null for 0
  const void* grad_h_n;     // T [D, B, H]; null for 0
  const void* grad_c_n;     // T [D, B, H], LSTM only; null for 0
  const void* weight[2];    // as forward
  const void* mask;         // as forward
  const void* h0;           // as forward
  const void* c0;           // as forward
  const void* output;       // T [rows, D, H], as forward wrote it; h_{t-1} is read from here
  const void* gates;        // T [rows, D, G * H], as forward wrote it; null for RNN
  const void* cells;        // T [rows, D, H], LSTM only, as forward wrote it
  const void* candidate;    // T [rows, D, H], GRU only, as forward wrote it
  void* grad_input;         // T [rows, D, G * H], gradient of `input`; never null
  void* grad_candidate;     // T [rows, D, H], GRU only: gradient of q (that of p's part n)
  void* previous;           // T [rows, D, H]: h' of every row, for weight_hh's gradient; null where not wanted
  void* grad_h0;            // T [D, B, H]; null where not wanted
  void* grad_c0;            // T [D, B, H], LSTM only; null where not wanted
  void* workspace;          // CUDA only: recurrence_workspace_bytes(...) bytes, holding anything
};

// The gradients of weights and biases are sums over rows of what the backward scan wrote, taken outside as matrix products:
//     grad weight_ih = grad_input^T x      grad bias_ih = column sums of grad_input
//     grad weight_hh = grad_product^T previous      grad bias_hh = column sums of grad_product
// where grad_product is grad_input, with grad_candidate in the place of n's columns for the GRU.

}  // namespace genlab
