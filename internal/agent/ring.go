package agent

import "sync"

// ring keeps the newest items within a budget. Sequence numbers start at 1 and have no gaps,
// so a reader that was too slow can tell how much it missed.
type ring[T any] struct {
	cost   func(T) int
	budget int

	mu      sync.Mutex
	items   []T // the oldest has number first
	first   uint64
	spent   int
	closed  bool
	changed chan struct{} // closed at the next change; nil while nobody waits
}

func newRing[T any](budget int, cost func(T) int) *ring[T] {
	return &ring[T]{cost: cost, budget: budget, first: 1}
}

// add appends what item returns for the next number. It never blocks. After close it does
// nothing.
func (r *ring[T]) add(item func(seq uint64) T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.append(item)
	}
}

// finish adds a last item.
func (r *ring[T]) finish(item func(seq uint64) T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.append(item)
		r.closed = true
	}
}

func (r *ring[T]) append(item func(seq uint64) T) {
	v := item(r.first + uint64(len(r.items)))
	r.items = append(r.items, v)
	r.spent += r.cost(v)
	drop := 0
	for r.spent > r.budget && drop < len(r.items)-1 {
		r.spent -= r.cost(r.items[drop])
		drop++
	}
	if drop > 0 {
		clear(r.items[:drop]) // let go of their text; the array itself is reused by append
		r.items = r.items[drop:]
		r.first += uint64(drop)
	}
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// since returns up to limit items after number after, how many after it are lost, and a
// channel that is closed at the next change.
func (r *ring[T]) since(after uint64, limit int) (items []T, lost uint64, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := after + 1
	if next < r.first {
		lost = r.first - next
		next = r.first
	}
	// A number from before an agent restart may be ahead of us; then there is nothing yet.
	if skip := next - r.first; skip < uint64(len(r.items)) {
		rest := r.items[skip:]
		items = append(items, rest[:min(limit, len(rest))]...)
	}
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	return items, lost, r.changed
}
