// Package release says which version of Specwatch this executable is.
package release

import "runtime/debug"

// Version is that of package.json; the build fills it in.
var Version = "development"

// revision is the commit; the build fills it in, too.
var revision string

// Revision is the commit that the executable was built from; empty if that is
// not known.
func Revision() string {
	if revision != "" {
		return revision
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			return setting.Value[:min(len(setting.Value), 12)]
		}
	}
	return ""
}
