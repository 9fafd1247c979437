// The forward scan of one slice. No include guard: see vector.h.

template <typename T, bool kPairs, Cell kCell>
struct ForwardScan {
  using O = Operands<T, kPairs>;
  using A = typename O::A;
  using Word = typename O::Word;
  using Value = typename O::Value;
  using V = Vector<A>;
  static constexpr int64_t kLane = O::kLane;
  static constexpr int kGates = static_cast<int>(recurrence_gates(kCell));
  // A panel has all gates of as many units as fill it: one vector of units, or four where there is one gate.
  static constexpr int kVectors = kGates == 1 ? kPanelVectors : kGates;
  static constexpr int64_t kUnits = kGates == 1 ? kPanelVectors * kLane : kLane;

  static int64_t panels(const RecurrenceParams& p) { return (p.hidden + kUnits - 1) / kUnits; }
  static int64_t panel_words(const RecurrenceParams& p) { return O::words(p.hidden) * kVectors * kLane; }
  static int64_t panel_bytes(const RecurrenceParams& p) { return panel_words(p) * sizeof(Word); }

  // Packed weights: [word of k][gate or vector of units][unit][value of the word].
  static void pack(const RecurrenceParams& p, int64_t direction, int64_t panel, void* packed) {
    const T* const weight = static_cast<const T*>(p.weight[direction]);
    Value* to = static_cast<Value*>(packed);
    for (int64_t word = 0; word < O::words(p.hidden); ++word) {
      for (int64_t v = 0; v < kVectors; ++v) {
        const int64_t gate = kGates == 1 ? 0 : v, first = panel * kUnits + (kGates == 1 ? v * kLane : 0);
        for (int64_t l = 0; l < kLane; ++l) {
          for (int64_t i = 0; i < O::kPerWord; ++i, ++to) {
            const int64_t k = word * O::kPerWord + i;
            const bool inside = first + l < p.hidden && k < p.hidden;
            const T value = inside ? weight[(gate * p.hidden + first + l) * p.hidden + k] : narrow<T>(A(0));
            if constexpr (kPairs) *to = value;
            else *to = widen(value);
          }
        }
      }
    }
  }

  struct Memory {
    A *bias, *state, *cell, *out;
    Value *now, *next;
    int64_t width, words;  // padded units of a row; words of an operand's row

    Memory(const RecurrenceParams& p, int64_t count, Pieces pieces)
        : width(round_up(p.hidden, kUnits)), words(O::words(p.hidden)) {
      bias = pieces.take<A>((kGates + 1) * width);
      state = pieces.take<A>(count * width);
      cell = pieces.take<A>(count * width);
      out = pieces.take<A>(kMostRows * kVectors * kLane);
      now = pieces.take<Value>(count * words * O::kPerWord);
      next = pieces.take<Value>(count * words * O::kPerWord);
      end = pieces.next;
    }
    char* end;
  };

  static int64_t scratch_bytes(const RecurrenceParams& p, int64_t count) {
    return Memory(p, count, Pieces{nullptr}).end - static_cast<char*>(nullptr);
  }

  const RecurrenceParams& p;
  const Rows<RecurrenceParams> rows;
  Memory m;

  static void run(const RecurrenceParams& p, const RecurrenceSlice& slice, const void* packed, void* scratch) {
    ForwardScan scan{p, {p, slice}, Memory(p, slice.count, Pieces{static_cast<char*>(scratch)})};
    scan.start();
    for (int64_t place = 0; place < p.steps; ++place) {
      const int64_t t = scan.rows.step(place);
      if (scan.rows.running(t) > 0) scan.step(t, static_cast<const Word*>(packed));
    }
    scan.finish();
  }

  // Sums of biases by gate; the GRU's n has the one inside the product last.
  void start() {
    const T* const ih = static_cast<const T*>(p.bias_ih[rows.slice.direction]);
    const T* const hh = static_cast<const T*>(p.bias_hh[rows.slice.direction]);
    std::fill(m.bias, m.bias + (kGates + 1) * m.width, A(0));
    for (int64_t g = 0; g < kGates; ++g) {
      const bool apart = kCell == Cell::kGru && g == 2;
      for (int64_t j = 0; j < p.hidden; ++j) {
        if (ih != nullptr) m.bias[g * m.width + j] += widen(ih[g * p.hidden + j]);
        if (hh != nullptr) m.bias[(g + apart) * m.width + j] += widen(hh[g * p.hidden + j]);
      }
    }
    const int64_t size = rows.slice.count * m.words * O::kPerWord;
    memset(static_cast<void*>(m.now), 0, size * sizeof(Value));
    memset(static_cast<void*>(m.next), 0, size * sizeof(Value));
    for (int64_t i = 0; i < rows.slice.count; ++i) {
      const int64_t state = rows.state(i) * p.hidden;
      for (int64_t j = 0; j < p.hidden; j += kLane) {
        const int64_t count = part_of(j, p.hidden, kLane);
        const V h = p.h0 == nullptr ? V{} : load_part(static_cast<const T*>(p.h0) + state + j, count);
        const V c = p.c0 == nullptr ? V{} : load_part(static_cast<const T*>(p.c0) + state + j, count);
        store(m.state + i * m.width + j, h);
        store(m.cell + i * m.width + j, c);
        put_operand(m.now, i, j, h, count);  // a sequence may start later, from either of the two
        put_operand(m.next, i, j, h, count);
      }
    }
  }

  GENLAB_MEMBER void put_operand(Value* to, int64_t i, int64_t j, V h, int64_t count) const {
    if (p.mask != nullptr) h *= load_part(static_cast<const T*>(p.mask) + rows.state(i) * p.hidden + j, count);
    O::put(to + i * m.words * O::kPerWord + j, h, count);
  }

  void step(int64_t t, const Word* packed) {
    const int64_t running = rows.running(t);
    for (int64_t panel = 0; panel < panels(p); ++panel) {
      O::template panel<kVectors>(
          running, m.words, reinterpret_cast<const Word*>(m.now), m.words, packed + panel * panel_stride(), m.out,
          [&](int64_t first, int64_t count, const A* out) {
            for (int64_t i = 0; i < count; ++i) units(t, first + i, panel * kUnits, out + i * kVectors * kLane);
          });
    }
    std::swap(m.now, m.next);
  }

  int64_t panel_stride() const { return round_up(panel_bytes(p), 64) / static_cast<int64_t>(sizeof(Word)); }

  // The units of one panel in one row: `product` has their gates, or their vectors where there is one gate.
  GENLAB_MEMBER void units(int64_t t, int64_t i, int64_t j, const A* product) {
    const int64_t row = rows.row(t, i);
    if constexpr (kGates > 1) {
      gated(row, i, j, product, part_of(j, p.hidden, kLane));
    } else {
      for (int v = 0; v < kVectors && j + v * kLane < p.hidden; ++v) {
        plain(row, i, j + v * kLane, load(product + v * kLane), part_of(j + v * kLane, p.hidden, kLane));
      }
    }
  }

  GENLAB_MEMBER V input(int64_t row, int64_t gate, int64_t j, int64_t count) const {
    return load_part(static_cast<const T*>(p.input) + (row * kGates + gate) * p.hidden + j, count) +
           load(m.bias + gate * m.width + j);
  }

  GENLAB_MEMBER void keep(void* to, int64_t row, int64_t j, V value, int64_t count) const {
    if (to != nullptr) store_part(static_cast<T*>(to) + row * p.hidden + j, value, count);
  }

  GENLAB_MEMBER void plain(int64_t row, int64_t i, int64_t j, V product, int64_t count) {
    const V sum = input(row, 0, j, count) + product;
    set_state(row, i, j, kCell == Cell::kRnnTanh ? hyperbolic_tangent(sum) : sum < A(0) ? V{} : sum, count);
  }

  GENLAB_MEMBER void gated(int64_t row, int64_t i, int64_t j, const A* product, int64_t count) {
    const V first = sigmoid(input(row, 0, j, count) + load(product));
    const V second = sigmoid(input(row, 1, j, count) + load(product + kLane));
    keep(p.gates, row * kGates, j, first, count);
    keep(p.gates, row * kGates + 1, j, second, count);
    if constexpr (kCell == Cell::kLstm) {
      const V g = hyperbolic_tangent(input(row, 2, j, count) + load(product + 2 * kLane));
      const V o = sigmoid(input(row, 3, j, count) + load(product + 3 * kLane));
      const V c = second * load(m.cell + i * m.width + j) + first * g;
      store(m.cell + i * m.width + j, c);
      keep(p.gates, row * kGates + 2, j, g, count);
      keep(p.gates, row * kGates + 3, j, o, count);
      keep(p.cells, row, j, c, count);
      set_state(row, i, j, o * hyperbolic_tangent(c), count);
    } else {
      const V q = load(product + 2 * kLane) + load(m.bias + kGates * m.width + j);
      const V n = hyperbolic_tangent(input(row, 2, j, count) + first * q);
      keep(p.gates, row * kGates + 2, j, n, count);
      keep(p.candidate, row, j, q, count);
      set_state(row, i, j, n + second * (load(m.state + i * m.width + j) - n), count);
    }
  }

  GENLAB_MEMBER void set_state(int64_t row, int64_t i, int64_t j, V h, int64_t count) {
    store(m.state + i * m.width + j, h);
    keep(p.output, row, j, h, count);
    put_operand(m.next, i, j, h, count);
  }

  void finish() {
    for (int64_t i = 0; i < rows.slice.count; ++i) {
      for (int64_t j = 0; j < p.hidden; j += kLane) {
        const int64_t count = part_of(j, p.hidden, kLane);
        keep(p.h_n, rows.state(i), j, load(m.state + i * m.width + j), count);
        keep(p.c_n, rows.state(i), j, load(m.cell + i * m.width + j), count);
      }
    }
  }
};
