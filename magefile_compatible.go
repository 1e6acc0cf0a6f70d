//go:build mage

package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/magefile/mage/mg"
	"github.com/magefile/mage/sh"
)

// E2e runs the tests in a browser alone; with GRAFANA_HOME, those in Grafana too.
func E2e(ctx context.Context) error {
	mg.Deps(Build)
	reports := filepath.Join(work, "test")
	if err := os.MkdirAll(reports, 0o755); err != nil {
		return err
	}
	return withPostgreSQL(ctx, func(url string) error {
		_, err := browserTests(ctx, reports, url)
		return err
	})
}

// Compatible checks types and tests of the front end with the newest packages
// of Grafana, then installs those of package-lock.json again.
func Compatible() error {
	mg.Deps(dependencies)
	newest := []string{"install", "--no-save", "--no-audit", "--no-fund"}
	for _, name := range []string{"data", "i18n", "runtime", "ui"} {
		newest = append(newest, "@grafana/"+name+"@latest")
	}
	if err := sh.RunV("npm", newest...); err != nil {
		return err
	}
	checked := errors.Join(
		sh.RunV("npm", "run", "--silent", "typecheck"),
		sh.RunV("npm", "run", "--silent", "test:ci"),
		webpack(nil),
	)
	return errors.Join(checked, sh.RunV("npm", "ci", "--no-audit", "--no-fund"))
}
