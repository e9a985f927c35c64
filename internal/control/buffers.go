package control

import "sync"

// buffers lends the proxy its copy buffers, so that many streams do not each keep one.
type buffers struct{ pool sync.Pool }

func newBuffers() *buffers {
	return &buffers{pool: sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}}
}

// Get lends a buffer.
func (b *buffers) Get() []byte { return *b.pool.Get().(*[]byte) }

// Put takes it back.
func (b *buffers) Put(p []byte) { b.pool.Put(&p) }
