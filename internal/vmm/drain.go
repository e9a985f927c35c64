package vmm

import "time"

// DrainTime bounds how long the last output of a VMM that has ended is waited for. It is there at
// once, unless something else holds the other end.
const DrainTime = 2 * time.Second

// Drain returns when read has, which reads what a VMM that has ended said last. After DrainTime it has
// our ends closed by closeOurs, which it calls in any case.
func Drain(read, closeOurs func()) {
	drained := make(chan struct{})
	go func() {
		read()
		close(drained)
	}()
	timer := time.NewTimer(DrainTime)
	select {
	case <-drained:
	case <-timer.C:
	}
	timer.Stop()
	closeOurs()
	<-drained
}
