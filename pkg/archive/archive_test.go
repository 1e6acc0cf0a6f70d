package archive_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/specwatch/specwatch/pkg/archive"
)

var at = time.Date(2026, 11, 25, 12, 30, 42, 0, time.UTC)

// folder makes the files in the given order, each with a time and mode of its own.
func folder(t *testing.T, mode os.FileMode, names ...string) string {
	t.Helper()
	root := t.TempDir()
	for i, name := range names {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("content of "+name), mode); err != nil {
			t.Fatal(err)
		}
		own := time.Now().Add(-time.Duration(i) * time.Hour)
		if err := os.Chtimes(file, own, own); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func pack(t *testing.T, format archive.Format, root string, at time.Time) []byte {
	t.Helper()
	files, err := archive.Folder(root, "plugin")
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(files)
	var packed bytes.Buffer
	if err := format(&packed, at, files); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}

func TestSameFilesGiveSameBytes(t *testing.T) {
	names := []string{"plugin.json", "gpx_x_linux_amd64", "datasource/module.js"}
	a := folder(t, 0o600, names...)
	slices.Reverse(names)
	b := folder(t, 0o755, names...)
	for name, format := range map[string]archive.Format{"zip": archive.Zip, "tar": archive.TarGzip} {
		first := pack(t, format, a, at)
		if !bytes.Equal(first, pack(t, format, b, at.In(time.FixedZone("", 3600)))) {
			t.Errorf("%s: the same files in another order, with other times and modes, give other bytes", name)
		}
		if bytes.Equal(first, pack(t, format, a, at.Add(time.Minute))) {
			t.Errorf("%s: the time is not written", name)
		}
	}
}

type entry struct {
	name, content string
	mode          os.FileMode
}

var want = []entry{
	{"plugin/datasource/module.js", "content of datasource/module.js", 0o644},
	{"plugin/gpx_x_linux_amd64", "content of gpx_x_linux_amd64", 0o755},
	{"plugin/plugin.json", "content of plugin.json", 0o644},
}

func TestEntries(t *testing.T) {
	root := folder(t, 0o640, "plugin.json", "gpx_x_linux_amd64", "datasource/module.js")
	for name, got := range map[string][]entry{
		"zip": unzip(t, pack(t, archive.Zip, root, at)), "tar": untar(t, pack(t, archive.TarGzip, root, at)),
	} {
		if !slices.Equal(got, want) {
			t.Errorf("%s: entries are %v, want %v", name, got, want)
		}
	}
}

func unzip(t *testing.T, packed []byte) (entries []entry) {
	t.Helper()
	r, err := zip.NewReader(bytes.NewReader(packed), int64(len(packed)))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.File {
		content, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(content)
		if err != nil {
			t.Fatal(err)
		}
		if !f.Modified.Equal(at) {
			t.Errorf("%s is of %v, want %v", f.Name, f.Modified, at)
		}
		entries = append(entries, entry{f.Name, string(text), f.Mode()})
	}
	return entries
}

func untar(t *testing.T, packed []byte) (entries []entry) {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(z)
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if !header.ModTime.Equal(at) {
			t.Errorf("%s is of %v, want %v", header.Name, header.ModTime, at)
		}
		entries = append(entries, entry{header.Name, string(text), header.FileInfo().Mode()})
	}
}

func TestFolderRefusesLinks(t *testing.T) {
	root := folder(t, 0o600, "a")
	if err := os.Symlink("a", filepath.Join(root, "b")); err != nil {
		t.Skip("links cannot be made here:", err)
	}
	if _, err := archive.Folder(root, "x"); err == nil {
		t.Error("a link was taken for a file")
	}
}

func TestTwoFilesOfOneName(t *testing.T) {
	file := filepath.Join(folder(t, 0o600, "a"), "a")
	files := []archive.File{{Name: "a", Path: file}, {Name: "a", Path: file}}
	if err := archive.Zip(io.Discard, at, files); err == nil {
		t.Error("two files of one name were packed")
	}
}
