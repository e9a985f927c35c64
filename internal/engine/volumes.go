package engine

import (
	"context"
	"os"
	"slices"
	"strings"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/layer"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
	"github.com/mvmctl/mvmctl/internal/volume"
)

// VolumeInfo describes one data volume.
type VolumeInfo = volume.Info

// attachVolumes makes the machine's volumes ready and returns their disks with what the guest
// has to know of each.
func (e *Engine) attachVolumes(ctx context.Context, rec machine.Record) ([]machine.Disk, []agentproto.Mount, error) {
	if err := e.checkVolumesFree(rec); err != nil {
		return nil, nil, err
	}
	var disks []machine.Disk
	var mounts []agentproto.Mount
	for i, v := range rec.Spec.Volumes {
		d := machine.Disk{Role: machine.RoleOfVolume(i), ReadOnly: v.ReadOnly}
		m := agentproto.Mount{Serial: d.Serial(), Path: v.Target, ReadOnly: v.ReadOnly}
		var err error
		switch v.Kind {
		case machine.VolumeData:
			m.Keep = true
			d.Path, d.Kept, err = e.dataVolume(ctx, rec, v)
		case machine.VolumeSecret:
			m.Memory = true
			d.Path = e.places(rec).Secret(i)
			if err = e.places(rec).MakeRuntime(); err == nil {
				m.Entry, err = copyIn(ctx, v.Source, d.Path)
			}
		default:
			d.Path = e.places(rec).Volume(i)
			m.Entry, err = copyIn(ctx, v.Source, d.Path)
		}
		if err != nil {
			return nil, nil, err
		}
		disks, mounts = append(disks, d), append(mounts, m)
	}
	return disks, mounts, nil
}

// dataVolume makes a data volume ready for the machine's backend: as a disk image, or with the
// name by which the backend keeps it.
func (e *Engine) dataVolume(ctx context.Context, rec machine.Record, v machine.Volume) (path, kept string, err error) {
	keeper, ok := e.driverOf(rec).(driver.VolumeKeeper)
	if !ok {
		path, err = e.VolumeStore.Ensure(ctx, v.Source, v.Size)
		return path, "", err
	}
	info, err := e.VolumeStore.Keep(ctx, v.Source, v.Size, rec.Driver, func(ctx context.Context, id string, size int64) (string, int64, error) {
		return keeper.KeepVolume(ctx, driver.Volume{ID: id, Name: v.Source, Size: size})
	})
	return info.Path, info.Kept, err
}

// whoHasVolumes says what the data volumes that exist ask of a new machine's backend: its name when
// one keeps a volume itself, and whether there are disk images to attach.
func (e *Engine) whoHasVolumes(spec machine.Spec) (backend string, images bool) {
	for _, v := range spec.Volumes {
		if v.Kind != machine.VolumeData {
			continue
		}
		info, err := e.VolumeStore.Get(v.Source)
		switch {
		case err != nil: // a new one; what cannot be read is said when it is attached
		case info.KeptBy != "":
			backend = info.KeptBy
		case !info.Unused:
			images = true
		}
	}
	return backend, images
}

// checkVolumesFree refuses a start with a data volume that another running machine has, unless
// both only read it. The VMM's lock on the file says the same of two that start at a time, in
// words that name nobody.
func (e *Engine) checkVolumesFree(rec machine.Record) error {
	wanted := map[string]machine.Volume{}
	for _, v := range rec.Spec.Volumes {
		if v.Kind == machine.VolumeData {
			wanted[v.Source] = v
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	recs, _, err := e.records()
	if err != nil {
		return err
	}
	for _, other := range recs {
		if other.Name == rec.Name || !e.Locks.Alive(other.Name) {
			continue
		}
		for _, v := range other.Spec.Volumes {
			want, shared := wanted[v.Source]
			if v.Kind == machine.VolumeData && shared && !(v.ReadOnly && want.ReadOnly) {
				return machine.Errorf("volume.in_use", "stop it first: mvmctl down "+other.Name, "machine %q runs and has volume %q attached, and only one machine at a time can have a volume that is written", other.Name, v.Source)
			}
		}
	}
	return nil
}

// forgetSecrets deletes the drives of a machine's secrets. The guest is up and has them in its
// memory.
func (e *Engine) forgetSecrets(rec machine.Record) {
	for i, v := range rec.Spec.Volumes {
		if v.Kind != machine.VolumeSecret {
			continue
		}
		if err := os.Remove(e.places(rec).Secret(i)); err != nil {
			e.Log.Warn("removing the copy of a secret", "machine", rec.Name, "error", err)
		}
	}
}

// Bounds of what is copied into a machine at each start.
const (
	maxCopyFile  = 16 << 20 // one file
	maxCopyBytes = 4 << 30  // a folder
	copiedFile   = "file"   // how a single file is called on its drive
)

// copyIn writes a file or folder of the host to a drive, a folder with the owners that it has
// here. It returns the entry that holds a single file, "" for a folder.
func copyIn(ctx context.Context, source, drive string) (entry string, err error) {
	info, err := os.Stat(source)
	if err != nil {
		return "", machine.Usagef("input.volume", "check the path and its permissions", "what was to be copied in cannot be read: %w", err)
	}
	switch fs := madeUp(source); {
	case fs != "":
		return "", machine.Usagef("input.volume", "copy what you need of it into a folder, and give that", "%s cannot be copied into a machine: it is on %s, whose files the kernel makes up", source, fs)
	case info.IsDir():
		err = disk.CreateFile(drive, disk.Options{Label: "mvm-volume"}, func(w *disk.Writer) error {
			limits := layer.DefaultLimits()
			limits.Bytes = maxCopyBytes
			_, err := layer.FromDir(ctx, w, source, layer.Options{Limits: limits})
			return err
		})
	case !info.Mode().IsRegular():
		return "", machine.Usagef("input.not_regular", "give a file or a folder", "%s is neither a file nor a folder", source)
	case info.Size() > maxCopyFile:
		return "", machine.Usagef("limit.file", "put it into a folder, or into a volume with a name", "%s has %s, and a single file may have %s", source, machine.FormatSize(info.Size()), machine.FormatSize(maxCopyFile))
	default:
		var data []byte
		if data, err = os.ReadFile(source); err != nil {
			return "", machine.Usagef("input.volume", "check the path and its permissions", "what was to be copied in cannot be read: %w", err)
		}
		entry = copiedFile
		err = disk.CreateDrive(drive, "mvm-volume", 0, []disk.File{{Path: copiedFile, Mode: uint16(info.Mode().Perm()), Data: data}})
	}
	return entry, paths.WriteError("copying "+source, err)
}

// Volumes lists the data volumes with the machines that have them attached.
func (e *Engine) Volumes(context.Context) ([]VolumeInfo, error) {
	users, err := e.volumeUsers()
	if err != nil {
		return nil, err
	}
	list, err := e.VolumeStore.List()
	if err != nil {
		return nil, err
	}
	for i := range list {
		list[i].InUseBy = users(list[i].Name)
	}
	return list, nil
}

// Volume describes one data volume.
func (e *Engine) Volume(_ context.Context, name string) (VolumeInfo, error) {
	v, err := e.VolumeStore.Get(name)
	if err != nil {
		return v, err
	}
	users, err := e.volumeUsers()
	if err != nil {
		return v, err
	}
	v.InUseBy = users(name)
	return v, nil
}

// CreateVolume makes a data volume; size 0 is the default. One that is there already is no
// error. Which backend has it is settled by the first machine that attaches it.
func (e *Engine) CreateVolume(ctx context.Context, name string, size int64) error {
	return e.VolumeStore.Create(ctx, name, size)
}

// RemoveVolume deletes a data volume that no machine has attached.
func (e *Engine) RemoveVolume(ctx context.Context, name string) error {
	return e.VolumeStore.Remove(ctx, name, func(info VolumeInfo) error {
		users, err := e.volumeUsers()
		if err != nil {
			return err
		}
		by := users(name)
		if len(by) == 0 {
			return e.dropKept(ctx, info)
		}
		remove := "mvmctl rm "
		if slices.ContainsFunc(by, e.Locks.Alive) {
			remove = "mvmctl rm --force "
		}
		return machine.Errorf("volume.in_use", "delete the machines first: "+remove+strings.Join(by, " "), "volume %q is attached to %s", name, strings.Join(by, ", "))
	})
}

// dropKept deletes what a backend keeps of a volume.
func (e *Engine) dropKept(ctx context.Context, info VolumeInfo) error {
	if info.KeptBy == "" {
		return nil
	}
	keeper, ok := e.driverOf(machine.Record{Driver: info.KeptBy}).(driver.VolumeKeeper)
	if !ok {
		return machine.Errorf("backend.unknown", "use the mvmctl that made it", "volume %q is kept by %q, which this mvmctl does not have", info.Name, info.KeptBy)
	}
	return keeper.DropVolume(ctx, info.Kept, info.KeptAt)
}

// volumeUsers returns which machines have a volume attached. One whose record cannot be read
// may have any.
func (e *Engine) volumeUsers() (func(name string) []string, error) {
	recs, unknown, err := e.records()
	if err != nil {
		return nil, err
	}
	users := map[string][]string{}
	for _, rec := range recs {
		for _, v := range rec.Spec.Volumes {
			if v.Kind == machine.VolumeData {
				users[v.Source] = append(users[v.Source], rec.Name)
			}
		}
	}
	return func(name string) []string { return slices.Concat(users[name], unknown) }, nil
}
