package main

import (
	"context"
	"fmt"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
	"github.com/mvmctl/mvmctl/internal/store"
)

// listed is the number of machines that `ls` has to answer for.
const listed = 100

// cli measures what a command costs before it does anything: `version`, and `ls` with many
// machines, against a Go program that does nothing. The runs alternate, so that the machine's
// noise falls on all alike.
func (b *bench) cli(ctx context.Context) error {
	p := paths.Paths{State: b.dir + "/listed"}
	st := store.New(p)
	if err := st.Prepare(); err != nil {
		return err
	}
	for i := range listed {
		rec := machine.Record{
			ID: machine.NewID(), Name: fmt.Sprintf("machine-%03d", i), Created: time.Now(), Generation: 1, Driver: "qemu", Isolation: "vm",
			Spec: machine.Spec{Image: "minimal", CPUs: 1, Memory: machine.DefaultMemory, Disk: machine.DefaultDisk},
		}
		if err := st.Save(rec); err != nil {
			return err
		}
		if err := st.SaveStatus(rec.Name, machine.Status{State: machine.StateExited, Generation: 1, Finished: time.Now()}); err != nil {
			return err
		}
	}
	env := append(append([]string(nil), b.env...), "MVM_STATE_DIR="+p.State)
	empty, version, ls := &sample{name: "empty Go program"}, &sample{name: "mvmctl version"}, &sample{name: fmt.Sprintf("mvmctl ls, %d machines", listed)}
	for range b.runs {
		for s, argv := range map[*sample][]string{empty: {b.empty}, version: {b.bin, "version"}, ls: {b.bin, "ls"}} {
			d, err := timed(ctx, env, argv...)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			s.add(d)
		}
	}
	empty.print(nil)
	version.print(empty)
	ls.print(empty)
	return nil
}
