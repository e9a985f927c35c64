package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/ui"
)

// removeTime bounds taking forwards back after Ctrl-C.
const removeTime = 5 * time.Second

type forwardOptions struct{ detach, remove, json bool }

func (a *app) forwardCommand() *cobra.Command {
	var o forwardOptions
	cmd := &cobra.Command{
		Use: "forward [flags] NAME [PORT...]", GroupID: groupMachines,
		Short: "Publish ports of a running machine",
		Long: `Publish ports of a running machine on this host until Ctrl-C, then take them back. With
-d they stay until the machine stops or --remove takes them back. Without PORT the
published ports are listed.

PORT is [ADDRESS:]HOSTPORT:GUESTPORT, or GUESTPORT alone for the same on both sides.
The address is 127.0.0.1 unless given; host port 0 picks a free one. The ports that
are open are printed.`,
		Example: `  mvmctl forward web 8080:80
  mvmctl forward -d web 0:80 127.0.0.1:5433:5432
  mvmctl forward web
  mvmctl forward --remove web 8080:80`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return exactly("NAME")(cmd, args)
			case o.detach && o.remove:
				return machine.Usagef("usage.flag", "leave one of them out", "--detach and --remove exclude each other")
			case (o.detach || o.remove) && len(args) == 1:
				return exactly("NAME", "PORT")(cmd, args)
			}
			return checkNames(args[:1])
		},
		ValidArgsFunction: a.completeNames(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ports, err := parsePorts(args[1:])
			if err != nil {
				return err
			}
			eng, err := a.settledEngine()
			if err != nil {
				return err
			}
			switch ctx := cmd.Context(); {
			case len(ports) == 0:
				return a.listForwards(ctx, eng, args[0], o)
			case o.remove:
				return removeForwards(ctx, eng, args[0], ports)
			default:
				return a.forward(ctx, eng, args[0], ports, o)
			}
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.detach, "detach", "d", false, "return at once; the ports stay published")
	f.BoolVar(&o.remove, "remove", false, "take published ports back and end their connections")
	f.BoolVar(&o.json, "json", false, "print a JSON array of ports")
	return cmd
}

func (a *app) listForwards(ctx context.Context, eng Engine, name string, o forwardOptions) error {
	ports, err := eng.Forwards(ctx, name)
	if err != nil {
		return err
	}
	return a.printPorts(ports, o.json)
}

func (a *app) printPorts(ports []machine.Port, asJSON bool) error {
	if asJSON {
		return ui.JSON(a.out, append([]machine.Port{}, ports...))
	}
	for _, p := range ports {
		if _, err := fmt.Fprintf(a.out, "%s -> %d\n", hostSide(p), p.GuestPort); err != nil {
			return err
		}
	}
	return nil
}

// forward publishes ports and, in the foreground, waits for Ctrl-C or the machine's end.
func (a *app) forward(ctx context.Context, eng Engine, name string, ports []machine.Port, o forwardOptions) error {
	open, err := eng.Forward(ctx, name, ports)
	if err != nil {
		return err
	}
	if err := a.printPorts(open, o.json); err != nil || o.detach {
		return err
	}
	_, err = eng.Wait(ctx, name)
	if ctx.Err() == nil {
		if err != nil && machine.CodeOf(err) != "machine.removed" {
			return err
		}
		return machine.Errorf("machine.ended", "mvmctl start -d "+name+" starts it again", "machine %q has ended, and its ports with it", name)
	}
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTime)
	defer cancel()
	if err := removeForwards(clean, eng, name, open); err != nil && machine.CodeOf(err) != "machine.not_running" && machine.CodeOf(err) != "machine.not_found" {
		return err
	}
	return ctx.Err()
}

func removeForwards(ctx context.Context, eng Engine, name string, ports []machine.Port) error {
	var errs []error
	for _, p := range ports {
		errs = append(errs, eng.Unforward(ctx, name, p))
	}
	return errors.Join(errs...)
}
