//go:build unix

package agent_test

import (
	"io"
	"testing"

	"github.com/mvmctl/mvmctl/internal/agentclient"
	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// One request and answer over the authenticated channel.
func BenchmarkStatus(b *testing.B) {
	c := boot(b).connect()
	ctx := b.Context()
	for b.Loop() {
		if _, err := c.Status(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

// A whole exec of the cheapest program, and of one that cannot be found: the difference is the
// price of the process.
func BenchmarkExec(b *testing.B) {
	for name, args := range map[string][]string{"true": {"/bin/true"}, "none": {"/no/such/program"}} {
		b.Run(name, func(b *testing.B) {
			c := boot(b).connect()
			ctx := b.Context()
			for b.Loop() {
				if _, err := c.Exec(ctx, agentproto.ExecStart{Process: agentproto.Process{Args: args}}, agentclient.Streams{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkConnect(b *testing.B) {
	g := boot(b)
	for b.Loop() {
		c, err := agentclient.Connect(b.Context(), g.pipe(), g.id)
		if err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}

// Bulk data out of, into and through a program.
func BenchmarkThroughput(b *testing.B) {
	const size = 64 << 20
	for _, bm := range []struct {
		name   string
		script string
		stdin  bool
	}{{"out", "exec head -c 67108864 /dev/zero", false}, {"in", "exec cat > /dev/null", true}, {"both", "exec cat", true}} {
		b.Run(bm.name, func(b *testing.B) {
			c := boot(b).connect()
			b.SetBytes(size)
			for b.Loop() {
				s := agentclient.Streams{Stdout: io.Discard}
				if bm.stdin {
					s.Stdin = patterned(size)
				}
				if exit, err := c.Exec(b.Context(), sh("%s", bm.script), s); err != nil || exit.Code != 0 {
					b.Fatal(exit, err)
				}
			}
		})
	}
}
