// Package archive packs the files of a release. The same files, names and time
// give the same bytes: entries are sorted, and owners and the times of the files
// are left out.
package archive

import (
	"archive/tar"
	"archive/zip"
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// File is one that is packed.
type File struct {
	Name       string // in the archive, with slashes
	Path       string // on this machine
	Executable bool
}

// mode does not follow the file's own, which depends on the umask and is not
// kept by Windows.
func (f File) mode() fs.FileMode {
	if f.Executable {
		return 0o755
	}
	return 0o644
}

// Format writes files, all of which get one time.
type Format func(w io.Writer, at time.Time, files []File) error

// Folder lists the files of a folder, to be packed below a folder of the
// archive. Go's executables of plugins are executable.
func Folder(folder, below string) ([]File, error) {
	var files []File
	err := filepath.WalkDir(folder, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if !entry.Type().IsRegular() {
			return fmt.Errorf("%s is not a file", name)
		}
		relative, err := filepath.Rel(folder, name)
		if err != nil {
			return err
		}
		files = append(files, File{
			Name: path.Join(below, filepath.ToSlash(relative)), Path: name, Executable: strings.HasPrefix(entry.Name(), "gpx_"),
		})
		return nil
	})
	return files, err
}

// Zip writes a zip.
func Zip(w io.Writer, at time.Time, files []File) error {
	archive := zip.NewWriter(w)
	err := each(files, func(f File, size int64, content io.Reader) error {
		header := &zip.FileHeader{Name: f.Name, Method: zip.Deflate, Modified: at.UTC()}
		header.SetMode(f.mode())
		entry, err := archive.CreateHeader(header)
		if err != nil {
			return err
		}
		_, err = io.Copy(entry, content)
		return err
	})
	return errors.Join(err, archive.Close())
}

// TarGzip writes a tar that is compressed by gzip.
func TarGzip(w io.Writer, at time.Time, files []File) error {
	compressed := gzip.NewWriter(w)
	archive := tar.NewWriter(compressed)
	err := each(files, func(f File, size int64, content io.Reader) error {
		header := &tar.Header{Name: f.Name, Mode: int64(f.mode()), Size: size, ModTime: at.UTC(), Format: tar.FormatPAX}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		_, err := io.Copy(archive, content)
		return err
	})
	if err != nil {
		return err
	}
	return errors.Join(archive.Close(), compressed.Close())
}

// each opens the files in the order of their names.
func each(files []File, write func(f File, size int64, content io.Reader) error) error {
	sorted := slices.SortedFunc(slices.Values(files), func(a, b File) int { return cmp.Compare(a.Name, b.Name) })
	for i, f := range sorted {
		if i > 0 && f.Name == sorted[i-1].Name {
			return fmt.Errorf("two files are named %s", f.Name)
		}
		if err := packed(f, write); err != nil {
			return fmt.Errorf("cannot pack %s: %w", f.Name, err)
		}
	}
	return nil
}

func packed(f File, write func(f File, size int64, content io.Reader) error) error {
	content, err := os.Open(f.Path)
	if err != nil {
		return err
	}
	defer content.Close()
	info, err := content.Stat()
	if err != nil {
		return err
	}
	return write(f, info.Size(), content)
}
