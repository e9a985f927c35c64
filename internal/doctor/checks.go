package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"
)

func settingsCheck(h Host) Check {
	return Check{Name: "settings", Required: true, Run: func(context.Context) Finding {
		if err := h.Settings(); err != nil {
			return fail(fixOf(err, "correct what the message names; `mvmctl config show` lists the keys"), "%v", err)
		}
		return ok("files and environment are readable and valid")
	}}
}

// cacheName is the Dir.Name of the one directory that others may read: it holds nothing of
// anybody's machines.
const cacheName = "cache"

// dirCheck: a directory of ours exists, is a real directory, belongs to us, is private and
// can be written.
func dirCheck(h Host, d Dir) Check {
	c := Check{Name: d.Name + " directory", Required: true, Run: func(context.Context) Finding {
		info, err := os.Lstat(d.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if err := creatable(d.Path); err != nil {
				return fail("mkdir -p -m 700 "+quote(d.Path), "%s does not exist and cannot be made: %v", d.Path, err)
			}
			return ok("%s does not exist yet; the first command that needs it makes it", d.Path)
		case err != nil:
			return fail("make it reachable, or choose another place with the MVM_*_DIR variables", "%v", err)
		case !info.IsDir():
			return fail("mv "+quote(d.Path)+" "+quote(d.Path+".old"), "%s is not a directory", d.Path)
		}
		if owner, known := ownerOf(info); known && owner != os.Geteuid() {
			return fail(fmt.Sprintf("chown -R %d %s, or choose another place with the MVM_*_DIR variables", os.Geteuid(), quote(d.Path)),
				"%s belongs to user %d, not to you", d.Path, owner)
		}
		perm := info.Mode().Perm()
		if perm&0o022 != 0 {
			return fail("chmod 700 "+quote(d.Path), "%s can be written by others (mode %04o)", d.Path, perm)
		}
		if err := writable(d.Path); err != nil {
			return fail("make it writable, or choose another place with the MVM_*_DIR variables", "%s cannot be written: %v", d.Path, err)
		}
		if perm&0o055 != 0 && d.Name != cacheName {
			return warn("chmod 700 "+quote(d.Path), "%s can be read by others (mode %04o)", d.Path, perm)
		}
		return ok("%s", d.Path)
	}}
	if h.MakeDir != nil {
		c.Repair = func(context.Context) error { return h.MakeDir(d.Path) }
	}
	return c
}

// writable finds out by doing: mode bits say nothing to root and on read-only mounts.
func writable(dir string) error {
	f, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return reason(err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// creatable reports whether the nearest existing parent of dir can be written.
func creatable(dir string) error {
	parent := existing(dir)
	info, err := os.Stat(parent)
	if err != nil {
		return reason(err)
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", parent)
	}
	return accessWrite(parent)
}

func existing(path string) string {
	for {
		if _, err := os.Stat(path); err == nil {
			return path
		}
		i := strings.LastIndexByte(path, '/')
		if i <= 0 {
			return "/"
		}
		path = path[:i]
	}
}

func spaceCheck(d Dir) Check {
	return Check{Name: d.Name + " space", Run: func(context.Context) Finding {
		free, err := freeBytes(existing(d.Path))
		if err != nil {
			return warn("", "free space of %s is unknown: %v", d.Path, err)
		}
		if free < d.Needs {
			return warn("free some space: `mvmctl ls` and `mvmctl rm` drop machines you no longer need",
				"%s has %s free, %s are recommended", d.Path, size(free), size(d.Needs))
		}
		return ok("%s free", size(free))
	}}
}

// minMemory is what one small machine and its VMM need, in bytes.
const minMemory = 768 << 20

func memoryCheck() Check {
	return Check{Name: "memory", Run: func(context.Context) Finding {
		free, err := availableMemory()
		if errors.Is(err, errors.ErrUnsupported) {
			return ok("not measured on this system")
		}
		if err != nil {
			return warn("", "available memory is unknown: %v", err)
		}
		if free < minMemory {
			return warn("close something, or start machines with --memory 128M", "%s available, a default machine wants 512 MiB and its VMM some more", size(free))
		}
		return ok("%s available", size(free))
	}}
}

// clockCheck: the guest takes its time from the host, and certificates and logs want a sane one.
func clockCheck(h Host) Check {
	return Check{Name: "clock", Run: func(context.Context) Finding {
		now := h.Now()
		if now.Year() < 2025 || now.Year() > 2100 {
			return warn("set the clock: timedatectl set-ntp true", "the clock says %s", now.UTC().Format(time.RFC3339))
		}
		return ok("%s", now.UTC().Format(time.RFC3339))
	}}
}

func agentCheck(h Host) Check {
	return Check{Name: "guest agent", Required: true, Run: func(context.Context) Finding {
		a, err := h.Agent()
		if err != nil {
			return fail(fixOf(err, "install a complete build of mvmctl"), "this program carries no guest agent: %v", err)
		}
		return ok("%s", describe(a))
	}}
}

func kernelCheck(h Host) Check {
	c := Check{Name: "guest kernel", Run: func(ctx context.Context) Finding {
		k, err := h.Kernel(ctx)
		if err != nil {
			return warn(fixOf(err, "mvmctl kernel fetch"), "no guest kernel yet: %v", err)
		}
		return ok("%s", describe(k))
	}}
	if h.Fetch != nil {
		c.Repair = h.Fetch
	}
	return c
}

// backendsCheck: the backend that `up` would use has to work; each better one says what it lacks
// and how to have it, and then the others. A better one that can be fetched is.
func backendsCheck(h Host) Check {
	var fetchable []string
	c := Check{Name: "backends", Required: true, Run: func(ctx context.Context) Finding {
		var chosen, better, others, fixes []string
		fetchable = nil
		for _, b := range h.Backends(ctx) {
			lines := describeBackend(b)
			switch {
			case b.Available && b.Chosen:
				chosen = append([]string{"up uses " + b.Name + " (" + b.Summary + ")"}, b.Notes...)
			case b.Better:
				better = append(better, lines...)
			default:
				others = append(others, lines...)
			}
			if b.Fetchable && h.Install != nil && (b.Better || chosen == nil) {
				fetchable = append(fetchable, b.Name)
			}
			if !b.Available && b.Remedy != "" && !b.ByName {
				fixes = append(fixes, b.Name+": "+b.Remedy)
			}
		}
		if chosen == nil {
			return fail(strings.Join(fixes, "\n"), "%s", strings.Join(append(append([]string{"no backend that `up` would use can run machines here"}, better...), others...), "\n"))
		}
		lines := chosen
		if better != nil {
			lines = append(append(lines, "better ones, not usable now"), indented(better)...)
		}
		if others != nil {
			lines = append(append(lines, "others are"), indented(others)...)
		}
		if fetchable != nil {
			return warn("mvmctl doctor --fix", "%s", strings.Join(lines, "\n"))
		}
		return ok("%s", strings.Join(lines, "\n"))
	}}
	if h.Install != nil {
		c.Repair = func(ctx context.Context) error {
			var errs []error
			for _, name := range fetchable {
				errs = append(errs, h.Install(ctx, name))
			}
			return errors.Join(errs...)
		}
	}
	return c
}

// describeBackend says what a backend that is not used lacks, or how to use it.
func describeBackend(b Backend) []string {
	switch {
	case b.Available:
		return append([]string{b.Name + " (" + b.Summary + "), with --hypervisor " + b.Name}, indented(b.Notes)...)
	case b.Remedy == "":
		return []string{b.Name + ": " + b.Problem}
	}
	return []string{b.Name + ": " + b.Problem, "  to have it: " + b.Remedy}
}

func indented(lines []string) []string {
	var out []string
	for _, l := range lines {
		out = append(out, "  "+l)
	}
	return out
}

func machinesCheck(h Host) Check {
	var broken []Machine
	c := Check{Name: "machines", Run: func(ctx context.Context) Finding {
		all, err := h.Machines(ctx)
		if err != nil {
			return fail(fixOf(err, ""), "%v", err)
		}
		broken = broken[:0]
		var left, unreadable []string
		for _, m := range all {
			switch {
			case m.Broken:
				broken = append(broken, m)
				left = append(left, m.Name)
			case m.Unreadable:
				unreadable = append(unreadable, m.Name+": "+m.Problem)
			}
		}
		if len(left) > 0 {
			return warn("mvmctl down "+strings.Join(left, " "), "left behind by a supervisor that died: %s", strings.Join(left, ", "))
		}
		if len(unreadable) > 0 {
			return warn("mvmctl rm --force NAME deletes one whose record is damaged; one of a later version needs that version; what is no folder of a machine is yours to move away",
				"%s", strings.Join(append([]string{"records that cannot be read"}, unreadable...), "\n"))
		}
		return ok("%d known, none left behind", len(all))
	}}
	if h.Clean != nil {
		c.Repair = func(ctx context.Context) error {
			var errs []error
			for _, m := range broken {
				errs = append(errs, h.Clean(ctx, m.Name))
			}
			return errors.Join(errs...)
		}
	}
	return c
}

func describe(t Thing) string {
	if t.Note == "" {
		return t.Name
	}
	return t.Name + " (" + t.Note + ")"
}

func reason(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}

func size(n int64) string {
	if n < 1<<30 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}

// quote makes a path safe to paste into a shell.
func quote(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+@%") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
