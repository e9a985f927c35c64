package disk

import "testing"

func TestReaderReadsWhatWeWrite(t *testing.T) {
	list := nastyTree()
	for name, o := range map[string]Options{
		"fitted":  {Label: "fitted", Time: testTime},
		"journal": {Size: 1 << 30, Journal: true},
	} {
		t.Run(name, func(t *testing.T) {
			fs := openImage(t, build(t, o, list))
			if d := diffEntries(want(list, o), walkAll(t, fs)); d != "" {
				t.Errorf("tree differs (-want +got):\n%s", d)
			}
			checkContents(t, list, readFrom(fs))
		})
	}
}
