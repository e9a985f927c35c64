package cli

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mvmctl/mvmctl/internal/engine"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/ui"
)

type cpOptions struct{ follow, quiet, json bool }

func (a *app) cpCommand() *cobra.Command {
	var o cpOptions
	cmd := &cobra.Command{
		Use: "cp [flags] SOURCE DESTINATION", GroupID: groupMachines,
		Short: "Copy files to or from a running machine",
		Long: `Copy a file or a folder between this host and a running machine. One side is
NAME:PATH. As with docker cp, a destination that is a folder takes the source below its
own name; a source that ends in /. is what is in that folder. What comes into the machine
is root's. "-" is a tar stream on standard input or output. A local path with a colon is
written ./a:b. Devices, sockets and FIFOs are left out: the rest is copied, and the exit
code says that something is missing.`,
		Example: `  mvmctl cp notes.txt web:/tmp/
  mvmctl cp web:/var/log ./logs
  mvmctl cp site/. web:/srv/www/
  tar c src | mvmctl cp - web:/srv
  mvmctl cp web:/etc - | tar t`,
		Args:              copyArgs,
		ValidArgsFunction: a.completeCopy,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.cp(cmd.Context(), args[0], args[1], o)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.follow, "follow-link", "L", false, "copy what a source that is a symbolic link points to")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "do not say what was copied")
	f.BoolVar(&o.json, "json", false, "print what was copied as JSON; errors are JSON too")
	return cmd
}

// machineSide returns the machine that one side of a copy names, or "". A path with a slash or
// a dot before its colon is a local one.
func machineSide(s string) string {
	name, _, found := strings.Cut(s, ":")
	if !found || strings.ContainsAny(name, "/\\.") {
		return ""
	}
	return name
}

func copyArgs(cmd *cobra.Command, args []string) error {
	if err := exactly("SOURCE", "DESTINATION")(cmd, args); err != nil {
		return err
	}
	from, to := machineSide(args[0]), machineSide(args[1])
	switch {
	case args[0] == "" || args[1] == "":
		return machine.Usagef("usage.args", "usage: "+cmd.UseLine(), "a side of the copy is empty")
	case from != "" && to != "":
		return machine.Usagef("copy.sides", "copy to this host first", "only one side of a copy can be in a machine")
	case from == "" && to == "":
		return machine.Usagef("copy.sides", "write one side as NAME:PATH, for example mvmctl cp notes.txt web:/tmp/", "neither side of the copy is in a machine")
	}
	return machine.CheckName(from + to)
}

func (a *app) cp(ctx context.Context, src, dst string, o cpOptions) error {
	if dst == "-" && a.terminal(a.io.Out) {
		return machine.Usagef("copy.terminal", "pipe it somewhere: mvmctl cp "+src+" - | tar t", "a tar stream does not go to a terminal")
	}
	if src == "-" && a.terminal(a.io.In) {
		return machine.Usagef("copy.terminal", "pipe it in: tar c FILES | mvmctl cp - "+dst, "a tar stream does not come from a terminal")
	}
	eng, err := a.settledEngine()
	if err != nil {
		return err
	}
	res, err := eng.Copy(ctx, a.local(src), a.local(dst), engine.CopyOptions{Stdin: a.io.In, Stdout: a.out, FollowLink: o.follow})
	switch {
	case err != nil || o.quiet:
		return err
	case dst == "-":
		return nil // standard output is the tar stream
	case o.json:
		return ui.JSON(a.out, res)
	case a.terminal(a.io.Err):
		a.say("copied %d files, %s\n", res.Files, machine.FormatSize(res.Bytes))
	}
	return nil
}

// local makes a local path mean the same in the engine, which knows the process's working
// directory only. A slash, or a slash and a dot, at the end keeps its meaning.
func (a *app) local(p string) string {
	if a.io.Dir == "" || p == "-" || machineSide(p) != "" || filepath.IsAbs(p) {
		return p
	}
	abs := filepath.Join(a.io.Dir, p)
	switch {
	case p == "." || strings.HasSuffix(p, "/."):
		abs += "/."
	case strings.HasSuffix(p, "/"):
		abs += "/"
	}
	return abs
}
