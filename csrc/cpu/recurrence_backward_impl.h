// The backward scan of one slice. No include guard: see vector.h.

template <typename T, bool kPairs, Cell kCell>
struct BackwardScan {
  using O = Operands<T, kPairs>;
  using A = typename O::A;
  using Word = typename O::Word;
  using Value = typename O::Value;
  using V = Vector<A>;
  using P = RecurrenceBackwardParams;
  static constexpr int64_t kLane = O::kLane;
  static constexpr int kGates = static_cast<int>(recurrence_gates(kCell));
  static constexpr int64_t kUnits = kPanelVectors * kLane;

  static int64_t panels(const P& p) { return (p.hidden + kUnits - 1) / kUnits; }
  static int64_t words(const P& p) { return kGates * O::words(p.hidden); }
  static int64_t panel_bytes(const P& p) { return words(p) * kPanelVectors * kLane * sizeof(Word); }

  // Packed weights: [gate][word of k within the gate][unit][value of the word].
  static void pack(const P& p, int64_t direction, int64_t panel, void* packed) {
    const T* const weight = static_cast<const T*>(p.weight[direction]);
    Value* to = static_cast<Value*>(packed);
    for (int64_t word = 0; word < words(p); ++word) {
      const int64_t gate = word / O::words(p.hidden), first = word % O::words(p.hidden) * O::kPerWord;
      for (int64_t unit = panel * kUnits; unit < (panel + 1) * kUnits; ++unit) {
        for (int64_t i = 0; i < O::kPerWord; ++i, ++to) {
          const bool inside = unit < p.hidden && first + i < p.hidden;
          const T value = inside ? weight[(gate * p.hidden + first + i) * p.hidden + unit] : narrow<T>(A(0));
          if constexpr (kPairs) *to = value;
          else *to = widen(value);
        }
      }
    }
  }

  struct Memory {
    A *grad_state, *grad_cell, *out;  // gradients of h and c as they come back from later steps
    Value* grads;                     // gradients of the recurrent product, by gate
    int64_t width, values;            // padded units of a row; values of a gate in an operand's row

    Memory(const P& p, int64_t count, Pieces pieces)
        : width(round_up(p.hidden, kUnits)), values(O::words(p.hidden) * O::kPerWord) {
      grad_state = pieces.take<A>(count * width);
      grad_cell = pieces.take<A>(count * width);
      out = pieces.take<A>(kMostRows * kPanelVectors * kLane);
      grads = pieces.take<Value>(count * kGates * values);
      end = pieces.next;
    }
    char* end;
  };

  static int64_t scratch_bytes(const P& p, int64_t count) {
    return Memory(p, count, Pieces{nullptr}).end - static_cast<char*>(nullptr);
  }

  const P& p;
  const Rows<P> rows;
  Memory m;

  static void run(const P& p, const RecurrenceSlice& slice, const void* packed, void* scratch) {
    BackwardScan scan{p, {p, slice}, Memory(p, slice.count, Pieces{static_cast<char*>(scratch)})};
    scan.start();
    for (int64_t place = p.steps; place-- > 0;) {
      const int64_t t = scan.rows.step(place);
      if (scan.rows.running(t) > 0) scan.step(t, static_cast<const Word*>(packed));
    }
    scan.finish();
  }

  GENLAB_MEMBER V given(const void* data, int64_t row, int64_t j, int64_t count) const {
    return data == nullptr ? V{} : load_part(static_cast<const T*>(data) + row * p.hidden + j, count);
  }

  GENLAB_MEMBER void put(void* to, int64_t row, int64_t j, V value, int64_t count) const {
    if (to != nullptr) store_part(static_cast<T*>(to) + row * p.hidden + j, value, count);
  }

  void start() {
    memset(static_cast<void*>(m.grads), 0, rows.slice.count * kGates * m.values * sizeof(Value));
    for (int64_t i = 0; i < rows.slice.count; ++i) {
      for (int64_t j = 0; j < p.hidden; j += kLane) {
        const int64_t count = part_of(j, p.hidden, kLane);
        store(m.grad_state + i * m.width + j, given(p.grad_h_n, rows.state(i), j, count));
        store(m.grad_cell + i * m.width + j, given(p.grad_c_n, rows.state(i), j, count));
      }
    }
  }

  void step(int64_t t, const Word* packed) {
    const int64_t running = rows.running(t);
    const int64_t before = rows.slice.direction == 0 ? t - 1 : t + 1;
    const int64_t started = before < 0 || before >= p.steps ? 0 : rows.running(before);
    for (int64_t i = 0; i < running; ++i) {
      for (int64_t j = 0; j < p.hidden; j += kLane) {
        // Where the state before this step is read: another row of the output, or the initial state.
        const bool first = i >= started;
        unit(rows.row(t, i), first ? rows.state(i) : rows.row(before, i), first, i, j, part_of(j, p.hidden, kLane));
      }
    }
    const int64_t depth = words(p), stride = round_up(panel_bytes(p), 64) / static_cast<int64_t>(sizeof(Word));
    for (int64_t panel = 0; panel < panels(p); ++panel) {
      O::template panel<kPanelVectors>(
          running, depth, reinterpret_cast<const Word*>(m.grads), depth, packed + panel * stride, m.out,
          [&](int64_t first, int64_t count, const A* out) {
            for (int64_t i = 0; i < count; ++i) add_product(first + i, panel * kUnits, out + i * kUnits);
          });
    }
  }

  // What comes back through the recurrent product. The state's gradient holds the rest already.
  GENLAB_MEMBER void add_product(int64_t i, int64_t begin, const A* product) {
    for (int64_t j = begin; j < begin + kUnits && j < p.hidden; j += kLane) {
      V value = load(product + j - begin);
      if (p.mask != nullptr) value *= given(p.mask, rows.state(i), j, part_of(j, p.hidden, kLane));
      A* const to = m.grad_state + i * m.width + j;
      store(to, kCell == Cell::kGru ? load(to) + value : value);
    }
  }

  // Stores the gradient of a gate's sum, and of its part in the product where that is another.
  GENLAB_MEMBER void put_gate(int64_t row, int64_t i, int64_t gate, int64_t j, V grad, V in_product, int64_t count) {
    put(p.grad_input, row * kGates + gate, j, grad, count);
    O::put(m.grads + (i * kGates + gate) * m.values + j, in_product, count);
  }

  // `row_before` is a row of the output, or of h0 where `first`.
  GENLAB_MEMBER void unit(int64_t row, int64_t row_before, bool first, int64_t i, int64_t j, int64_t count) {
    A* const grad_state = m.grad_state + i * m.width + j;
    const V grad = load(grad_state) + given(p.grad_output, row, j, count);
    if (p.previous != nullptr || kCell == Cell::kGru) {
      const V before = given(first ? p.h0 : p.output, row_before, j, count);
      if (p.previous != nullptr) {
        put(p.previous, row, j, p.mask == nullptr ? before : before * given(p.mask, rows.state(i), j, count), count);
      }
      if constexpr (kCell == Cell::kGru) {
        store(grad_state, gru(row, i, j, grad, before, count));
        return;
      }
    }
    if constexpr (kCell == Cell::kLstm) {
      lstm(row, row_before, first, i, j, grad, count);
    } else if constexpr (kCell != Cell::kGru) {
      const V h = given(p.output, row, j, count);
      const V inner = kCell == Cell::kRnnTanh ? grad * (A(1) - h * h) : h > A(0) ? grad : V{};
      put_gate(row, i, 0, j, inner, inner, count);
    }
  }

  // Returns the part of the gradient of the state before that does not go through the product.
  GENLAB_MEMBER V gru(int64_t row, int64_t i, int64_t j, V grad, V before, int64_t count) {
    const V r = given(p.gates, row * kGates, j, count), z = given(p.gates, row * kGates + 1, j, count);
    const V n = given(p.gates, row * kGates + 2, j, count), q = given(p.candidate, row, j, count);
    const V grad_n = grad * (A(1) - z) * (A(1) - n * n);
    const V grad_q = grad_n * r;
    const V grad_r = grad_q * q * (A(1) - r), grad_z = grad * (before - n) * z * (A(1) - z);
    put_gate(row, i, 0, j, grad_r, grad_r, count);
    put_gate(row, i, 1, j, grad_z, grad_z, count);
    put_gate(row, i, 2, j, grad_n, grad_q, count);
    put(p.grad_candidate, row, j, grad_q, count);
    return grad * z;
  }

  GENLAB_MEMBER void lstm(int64_t row, int64_t row_before, bool first, int64_t i, int64_t j, V grad, int64_t count) {
    const V in = given(p.gates, row * kGates, j, count), forget = given(p.gates, row * kGates + 1, j, count);
    const V g = given(p.gates, row * kGates + 2, j, count), o = given(p.gates, row * kGates + 3, j, count);
    const V activated = hyperbolic_tangent(given(p.cells, row, j, count));
    const V before = given(first ? p.c0 : p.cells, row_before, j, count);
    const V grad_o = grad * activated * o * (A(1) - o);
    A* const grad_cell = m.grad_cell + i * m.width + j;
    const V grad_c = load(grad_cell) + grad * o * (A(1) - activated * activated);
    const V grad_in = grad_c * g * in * (A(1) - in), grad_forget = grad_c * before * forget * (A(1) - forget);
    const V grad_g = grad_c * in * (A(1) - g * g);
    put_gate(row, i, 0, j, grad_in, grad_in, count);
    put_gate(row, i, 1, j, grad_forget, grad_forget, count);
    put_gate(row, i, 2, j, grad_g, grad_g, count);
    put_gate(row, i, 3, j, grad_o, grad_o, count);
    store(grad_cell, grad_c * forget);
  }

  void finish() {
    for (int64_t i = 0; i < rows.slice.count; ++i) {
      for (int64_t j = 0; j < p.hidden; j += kLane) {
        const int64_t count = part_of(j, p.hidden, kLane);
        put(p.grad_h0, rows.state(i), j, load(m.grad_state + i * m.width + j), count);
        put(p.grad_c0, rows.state(i), j, load(m.grad_cell + i * m.width + j), count);
      }
    }
  }
};
