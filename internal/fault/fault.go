// Package fault names the steps at which a test may kill or hold a process: crash points and
// pause points. In an ordinary build every call is an empty function; with the build tag
// "faultpoints" the environment decides what happens.
//
// It is not error injection and not logging. Any package on the host may call Point at a step
// whose interruption must be survived; Points lists them all, so that a test can loop over
// them and fail on one that no command reaches.
package fault

// The registered points, in the order in which a command reaches them. Names are
// "<verb>.<step>"; the process that reaches a point is named in the comment.
const (
	UpLocked     = "up.locked"     // command: the machine's lock is held
	UpIntent     = "up.intent"     // command: the record says "starting"
	UpImage      = "up.image"      // command: image, kernel and initramfs are ready
	UpDisks      = "up.disks"      // command: the machine's own disks exist
	UpSpawned    = "up.spawned"    // command: the supervisor process runs
	UpReported   = "up.reported"   // command: the supervisor said the machine is ready
	SupStarted   = "sup.started"   // supervisor: request read, nothing made yet
	SupListening = "sup.listening" // supervisor: sockets and ports are bound
	SupBegan     = "sup.began"     // supervisor: the VMM's process is recorded, the driver is not done with it
	SupVMM       = "sup.vmm"       // supervisor: the VMM runs, its pid is recorded
	SupChannel   = "sup.channel"   // supervisor: the guest opened its end
	SupReady     = "sup.ready"     // supervisor: agent authenticated, before saying so
	SupPaused    = "sup.paused"    // supervisor: the guest stands still, nothing says so yet
	SupResumed   = "sup.resumed"   // supervisor: the guest goes on, its status says that it is paused
	SupStopping  = "sup.stopping"  // supervisor: asked to stop, guest not told yet
	SupShutdown  = "sup.shutdown"  // supervisor: guest told to shut down
	SupVMMGone   = "sup.vmm_gone"  // supervisor: the VMM ended, nothing cleaned yet
	SupCleaned   = "sup.cleaned"   // supervisor: cleaned up, last status not written
	DownLocked   = "down.locked"   // command: the machine's lock is held
	DownIntent   = "down.intent"   // command: the record says "stopping"
	DownAsked    = "down.asked"    // command: the supervisor was asked
	DownStopped  = "down.stopped"  // command: the supervisor is gone
	HealThawed   = "heal.thawed"   // command: what a dead supervisor left can be ended, also if it was paused
	RemoveIntent = "rm.intent"     // command: the record says "removing"
	RemoveDisks  = "rm.disks"      // command: disks and logs are deleted
	RemoveRecord = "rm.record"     // command: the record is deleted, its folder is not
	PullResolved = "pull.resolved" // command: it is known what an image is made of
	PullPartial  = "pull.partial"  // command: the first piece of a layer is in its unfinished file
	PullLayer    = "pull.layer"    // command: one layer has its name, folder not synced
	PullFetched  = "pull.fetched"  // command: all layers are here
	ImageWritten = "image.written" // command: an import's root file system is whole, in tmp/
	ImageReady   = "image.ready"   // command: its manifest is there too
	ImageStored  = "image.stored"  // command: the image is in its place and has no name yet
	StoreTemp    = "store.temp"    // any: new state written to a temporary file
	StoreRenamed = "store.renamed" // any: new state renamed into place, folder not synced
)

// Points returns all registered points.
func Points() []string {
	return []string{
		UpLocked, UpIntent, UpImage, UpDisks, UpSpawned, UpReported,
		SupStarted, SupListening, SupBegan, SupVMM, SupChannel, SupReady,
		SupPaused, SupResumed, SupStopping, SupShutdown, SupVMMGone, SupCleaned,
		DownLocked, DownIntent, DownAsked, DownStopped,
		HealThawed, RemoveIntent, RemoveDisks, RemoveRecord,
		PullResolved, PullPartial, PullLayer, PullFetched,
		ImageWritten, ImageReady, ImageStored,
		StoreTemp, StoreRenamed,
	}
}
