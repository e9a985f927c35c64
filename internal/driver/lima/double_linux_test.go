package lima_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/driver/drivertest"
	"github.com/mvmctl/mvmctl/internal/driver/fake"
	"github.com/mvmctl/mvmctl/internal/driver/lima"
	"github.com/mvmctl/mvmctl/internal/linuxenv"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// TestMain makes this test program also the double of limactl, under that name, and the side in
// the virtual machine.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "limactl" {
		os.Exit(double(os.Args[1:]))
	}
	if len(os.Args) > 1 && os.Args[1] == linuxenv.Command {
		os.Exit(side())
	}
	os.Exit(m.Run())
}

// side is our program in the double's virtual machine, with the fake backend in it.
func side() int {
	root := os.Getenv("DOUBLE_ROOT")
	h := &lima.Host{
		Dir: filepath.Join(root, "var"), Run: filepath.Join(root, "run"),
		Drivers: func(func(context.Context) (machine.Kernel, string, error)) []driver.Driver {
			if why, err := os.ReadFile(filepath.Join(root, "refuses")); err == nil {
				return []driver.Driver{refusing{fake.New(fake.Options{}), string(why)}}
			}
			return []driver.Driver{fake.New(fake.Options{})}
		},
		Provide: func(_ context.Context, emulate bool, words io.Writer) error {
			_, _ = fmt.Fprintf(words, "fetching, emulate %v\n", emulate)
			if _, err := os.Stat(filepath.Join(root, "helps")); emulate && err == nil {
				return os.Remove(filepath.Join(root, "refuses"))
			}
			return nil
		},
	}
	err := linuxenv.Side{Handler: h.Handler(), Build: "test", Temp: filepath.Join(root, "tmp")}.Serve(context.Background(), os.Stdin, os.Stdout)
	h.Close()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// refusing is a backend that boots nothing.
type refusing struct {
	driver.Driver
	why string
}

func (r refusing) Probe(context.Context) (driver.Capabilities, error) {
	return driver.Capabilities{}, driver.Unavailable("backend.kvm", "", "%s", r.why)
}

// vmDir is the place of the double's virtual machine: LIMA_HOME/NAME, with the file "status".
func vmDir(name string) string { return filepath.Join(os.Getenv("LIMA_HOME"), name) }

// double is limactl as far as it is used. What the real one would refuse, or do differently, it
// refuses: other flags, another order, a template with keys that it does not know.
func double(args []string) int {
	err := func() error {
		if _, err := os.Stat(os.Getenv("LIMA_HOME") + "/root"); err == nil && !slices.Equal(args, []string{"--version"}) {
			return errors.New("must not run as the root user")
		}
		switch {
		case slices.Equal(args, []string{"--version"}):
			version := os.Getenv("LIMA_HOME") + "/version"
			if data, err := os.ReadFile(version); err == nil {
				fmt.Printf("limactl version %s\n", data)
				return nil
			}
			fmt.Println("limactl version 1.0.0")
			return nil
		case slices.Equal(args, []string{"list", "--json"}):
			return doubleList()
		case len(args) >= 3 && args[0] == "start" && args[1] == "--tty=false":
			return doubleStart(args[2:])
		case len(args) >= 5 && args[0] == "shell" && args[1] == "--workdir":
			return doubleShell(args[2], args[3], args[4:])
		}
		return fmt.Errorf("unknown command %q", args)
	}()
	if ended, ok := errors.AsType[*exec.ExitError](err); ok {
		return ended.ExitCode()
	}
	if err != nil {
		_, _ = fmt.Fprintf(os.Stderr, "level=fatal msg=%q\n", err)
		return 1
	}
	return 0
}

func doubleList() error {
	files, _ := filepath.Glob(filepath.Join(os.Getenv("LIMA_HOME"), "*", "status"))
	for _, f := range files {
		status, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		config := map[string]any{"plain": true, "mounts": nil, "ssh": map[string]any{"forwardAgent": false}}
		if data, err := os.ReadFile(filepath.Join(filepath.Dir(f), "config.json")); err == nil {
			if err := json.Unmarshal(data, &config); err != nil {
				return err
			}
		}
		line, _ := json.Marshal(map[string]any{
			"name": filepath.Base(filepath.Dir(f)), "status": string(status), "dir": filepath.Dir(f), "arch": "x86_64", "limaVersion": "1.0.0", "config": config,
		})
		fmt.Printf("%s\n", line)
	}
	return nil
}

// template is what Lima 1.0 knows of a template, as far as we use it.
type template struct {
	MinimumLimaVersion string `yaml:"minimumLimaVersion"`
	Images             []struct {
		Location, Arch, Digest string
		Kernel                 *struct{ Location, Cmdline, Digest string }
		Initrd                 *struct{ Location, Digest string }
	}
	CPUType      map[string]string `yaml:"cpuType"`
	CPUs         int
	Memory, Disk string
	Plain        bool
	Mounts       []any
	Containerd   struct{ System, User bool }
	Firmware     struct {
		LegacyBIOS bool `yaml:"legacyBIOS"`
	}
	PropagateProxyEnv bool `yaml:"propagateProxyEnv"`
	SSH               struct {
		LoadDotSSHPubKeys bool `yaml:"loadDotSSHPubKeys"`
		ForwardAgent      bool `yaml:"forwardAgent"`
		ForwardX11        bool `yaml:"forwardX11"`
	}
	User struct {
		Name string
		UID  int
	}
	Provision []struct{ Mode, Script string }
}

func doubleStart(args []string) error {
	name, file := "", args[len(args)-1]
	switch {
	case len(args) == 1 && !strings.HasSuffix(file, ".yaml"):
		if _, err := os.Stat(filepath.Join(vmDir(file), "status")); err != nil {
			return fmt.Errorf("instance %q does not exist", file)
		}
		return doubleBoot(file)
	case len(args) == 2 && strings.HasPrefix(args[0], "--name="):
		name = strings.TrimPrefix(args[0], "--name=")
	default:
		return fmt.Errorf("start: unknown arguments %q", args)
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	dec := yaml.NewDecoder(f)
	dec.KnownFields(true)
	var t template
	if err := dec.Decode(&t); err != nil {
		return err
	}
	if t.MinimumLimaVersion != "1.0.0" || len(t.Images) == 0 || !t.Plain || t.User.UID == 0 {
		return fmt.Errorf("not our template: %+v", t)
	}
	if err := os.MkdirAll(vmDir(name), 0o700); err != nil {
		return err
	}
	config, _ := json.Marshal(map[string]any{"plain": t.Plain, "mounts": t.Mounts, "ssh": map[string]any{"forwardAgent": t.SSH.ForwardAgent}})
	if err := errors.Join(os.WriteFile(filepath.Join(vmDir(name), "lima.yaml"), nil, 0o600), os.WriteFile(filepath.Join(vmDir(name), "config.json"), config, 0o600)); err != nil {
		return err
	}
	return doubleBoot(name)
}

// doubleBoot has a virtual machine run, which limactl says as soon as it boots, and take connections
// some time after. While LIMA_HOME/hold is a pipe, that is until it has been written to.
func doubleBoot(name string) error {
	booting := filepath.Join(vmDir(name), "booting")
	if err := os.Mkdir(booting, 0o700); err != nil {
		return fmt.Errorf("instance %q is being started by another: %w", name, err)
	}
	log, err := os.OpenFile(filepath.Join(vmDir(name), "boots"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = log.WriteString("boot\n")
	if err := errors.Join(err, log.Close(), os.WriteFile(filepath.Join(vmDir(name), "status"), []byte("Running"), 0o600)); err != nil {
		return err
	}
	if hold, err := os.Open(filepath.Join(os.Getenv("LIMA_HOME"), "hold")); err == nil {
		_, _ = io.Copy(io.Discard, hold)
		_ = hold.Close()
	}
	return os.Remove(booting)
}

// quote quotes as limactl does.
func quote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'"'"'`) + "'"
}

// doubleShell runs words as limactl does through ssh: joined to a line for a login shell, leading
// KEY=VALUE words with their names as they are. The virtual machine's file system is this host's,
// but for the place of our program, its home, and sudo.
func doubleShell(dir, name string, words []string) error {
	if status, err := os.ReadFile(filepath.Join(vmDir(name), "status")); err != nil || string(status) != "Running" {
		return fmt.Errorf("instance %q is stopped, or does not exist", name)
	}
	if _, err := os.Stat(filepath.Join(vmDir(name), "booting")); err == nil {
		return errors.New("ssh: connect to host 127.0.0.1 port 60022: Connection refused")
	}
	if !strings.HasPrefix(os.Getenv("SSH"), "ssh -T -o ControlMaster=no") {
		return errors.New("the session would share a connection")
	}
	root := filepath.Join(vmDir(name), "root")
	bin, home := filepath.Join(root, "bin"), filepath.Join(root, "home")
	if err := errors.Join(os.MkdirAll(bin, 0o700), os.MkdirAll(home, 0o700)); err != nil {
		return err
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(bin, "sudo"), []byte("#!/bin/sh\n[ \"$1\" = -n ] || exit 9\nshift\nexec \"$@\"\n"), 0o700), //nolint:gosec // a program
		os.WriteFile(filepath.Join(home, ".profile"), []byte("echo 'Welcome. mvmctl has no part in this.'\nprintf 'no line end '\nPATH="+bin+":$PATH\n"), 0o600),
	); err != nil {
		return err
	}
	quoted, leading := make([]string, len(words)), true
	for i, w := range words {
		w = strings.ReplaceAll(w, "/usr/local/lib/mvmctl", filepath.Join(root, "lib"))
		key, value, isEnv := strings.Cut(w, "=")
		if leading = leading && isEnv; leading {
			quoted[i] = key + "=" + quote(value)
		} else {
			quoted[i] = quote(w)
		}
	}
	script := fmt.Sprintf(`cd %s || exit 1 ; exec "$SHELL" --login -c %s`, quote(dir), quote(strings.Join(quoted, " ")))
	cmd := exec.Command("sh", "-c", script)
	cmd.Env = []string{"HOME=" + home, "SHELL=/bin/bash", "PATH=/usr/bin:/bin:/usr/sbin:/sbin", "DOUBLE_ROOT=" + root}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

const doubleName = "mvmctl-test"

// doubleVM is a virtual machine of the double's below dir.
func doubleVM(t testing.TB, dir string) *linuxenv.VM {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// A copy: other users cannot reach the test program itself.
	limactl := filepath.Join(dir, "limactl")
	if _, err := os.Stat(limactl); err != nil {
		copyFile(t, limactl, self)
	}
	return linuxenv.New(linuxenv.Options{
		Limactl: limactl, Instance: doubleName, Program: func() (string, error) { return limactl, nil }, LockDir: filepath.Join(dir, fmt.Sprint("lima", os.Getuid())),
		Environ: []string{"LIMA_HOME=" + filepath.Join(dir, fmt.Sprint("lima", os.Getuid())), "PATH=" + os.Getenv("PATH")},
	})
}

func copyFile(t testing.TB, to, from string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755) //nolint:gosec // a program, for other users too
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Chmod(0o755), out.Close()); err != nil { //nolint:gosec // whatever the umask is
		t.Fatal(err)
	}
}

// TestConformanceDouble runs the suite with a double of limactl and the fake backend behind it: all
// of the driver and of its half in the virtual machine, but Lima, ssh and a VMM. The fake backend can
// be dialled once; TestConformance dials again.
func TestConformanceDouble(t *testing.T) {
	drivertest.Run(t, drivertest.Harness{OneDial: true, New: func(t testing.TB, a drivertest.Assets) driver.Driver {
		vm := doubleVM(t, a.Cache)
		if os.Getuid() == 0 { // for the test's children
			for _, uid := range []int{0, 65534} {
				dir := filepath.Join(a.Cache, fmt.Sprint("lima", uid))
				if err := errors.Join(os.MkdirAll(dir, 0o700), os.Chown(dir, uid, -1)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := vm.Ensure(t.Context(), io.Discard); err != nil {
			t.Fatal(err)
		}
		return lima.New(lima.Options{VM: vm, CacheDir: a.Cache})
	}})
}
