package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/ui"
)

type waitJSON struct {
	Name     string           `json:"name"`
	State    machine.State    `json:"state"`
	ExitCode int              `json:"exit_code"`
	Finished time.Time        `json:"finished,omitzero"`
	Reason   string           `json:"reason,omitempty"`
	Failure  *machine.Failure `json:"failure,omitempty"`
}

func (a *app) waitCommand() *cobra.Command {
	var asJSON bool
	var timeout string
	cmd := &cobra.Command{
		Use: "wait [flags] NAME...", GroupID: groupMachines,
		Short: "Wait until machines have ended and print their exit codes",
		Long: `Wait until machines have ended and print the exit codes of their programs, one a line,
in order: 0 for a machine that was stopped or has no program, 125 for one that failed.
The exit code of wait itself is 0.`,
		Example: `  mvmctl wait job
  test "$(mvmctl wait job)" = 0 && mvmctl rm job
  mvmctl wait --timeout 5m job`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return exactly("NAME")(cmd, args)
			}
			return checkNames(args)
		},
		ValidArgsFunction: a.completeNames(-1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.wait(cmd.Context(), args, timeout, asJSON)
		},
	}
	cmd.Flags().StringVar(&timeout, "timeout", "", "give up after this `DURATION`, with exit code 124")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON Lines")
	return cmd
}

func (a *app) wait(ctx context.Context, names []string, timeout string, asJSON bool) error {
	if timeout != "" {
		d, err := parseDuration(timeout)
		if err != nil {
			return err
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	eng, err := a.settledEngine()
	if err != nil {
		return err
	}
	for _, name := range names {
		st, err := eng.Wait(ctx, name)
		if err != nil {
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				e := machine.Errorf("wait.timeout", "allow more time with --timeout, or stop it: mvmctl down "+name, "machine %q has not ended within %s", name, timeout)
				e.Exit = machine.ExitTimeout
				return e
			}
			return err
		}
		if asJSON {
			err = ui.JSONLine(a.out, waitJSON{name, st.State, endCode(st), st.Finished, st.Reason, st.Failure})
		} else {
			_, err = fmt.Fprintln(a.out, strconv.Itoa(endCode(st)))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// endCode is the exit code of a machine that has ended.
func endCode(st machine.Status) int {
	switch {
	case st.ExitCode != nil:
		return *st.ExitCode
	case st.Failure != nil, st.State == machine.StateFailed, st.State == machine.StateCrashed:
		return machine.ExitFailed
	}
	return 0
}
