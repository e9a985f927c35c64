package store

import (
	"fmt"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// BenchmarkListOf100 is what `ls` pays for reading a hundred machines.
func BenchmarkListOf100(b *testing.B) {
	s := New(paths.Paths{State: b.TempDir()})
	if err := s.Prepare(); err != nil {
		b.Fatal(err)
	}
	for i := range 100 {
		rec := record(fmt.Sprintf("m%03d", i))
		if err := s.Save(rec); err != nil {
			b.Fatal(err)
		}
		if err := s.SaveStatus(rec.Name, machine.Status{State: machine.StateExited, Generation: 1, Finished: time.Now()}); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		names, err := s.Names()
		if err != nil {
			b.Fatal(err)
		}
		for _, name := range names {
			if _, err := s.Load(name); err != nil {
				b.Fatal(err)
			}
			if s.Status(name) == nil {
				b.Fatal("no status")
			}
		}
	}
}
