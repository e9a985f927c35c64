package cli

import (
	"io"
	"strings"
	"testing"
)

// Commands that only read do not pay for receiving signals; those that have something to clean up
// must.
func TestSignalsAreReceivedWhereTheyMatter(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]bool{
		"version": false, "ls": false, "ps -a": false, "config show": false, "completion bash": false, "": false,
		"up minimal": true, "run minimal": true, "down web": true, "exec web -- true": true, "wait web": true,
		"logs -f web": true, "console web": true, "cp a web:b": true, "no-such-command": true,
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			listens := false
			Run(t.Context(), strings.Fields(args), IO{
				In: strings.NewReader(""), Out: io.Discard, Err: io.Discard, Dir: t.TempDir(), Listen: func() { listens = true },
			}, Deps{})
			if listens != want {
				t.Errorf("signals received: %v, want %v", listens, want)
			}
		})
	}
}
