package guestproc

import (
	"fmt"
	"runtime/debug"
)

// Guard runs do and returns also when it panics; blame then gets what happened, with the stack,
// as lines of text. It is for a goroutine of the guest's first process that works for one
// request or one program: by itself the panic would end the machine with everything in it. It
// covers no goroutine that do starts. Whoever waits for what do should have done is told by
// blame, or by what do defers.
func Guard(blame func(text string), do func()) {
	defer func() {
		if r := recover(); r != nil {
			blame(fmt.Sprintf("internal error: %v\n%s", r, debug.Stack()))
		}
	}()
	do()
}
