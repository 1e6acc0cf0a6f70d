//go:build mage

package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/magefile/mage/mg"
	"github.com/magefile/mage/sh"
)

// Go's tools that only checks and tests need have modules of their own.
const (
	tools        = "-modfile=tools/go.mod"
	golangciLint = "-modfile=tools/golangci-lint/go.mod"
)

// Lint checks form and common mistakes: gofmt and golangci-lint for Go; tsc, ESLint and
// Prettier for TypeScript. `npm run lint:fix` mends what it can.
func Lint() error {
	mg.Deps(dependencies)
	return errors.Join(lintGo(), lintTypeScript())
}

func lintGo() error {
	mage, err := filepath.Glob("*.go")
	if err != nil {
		return err
	}
	unformatted, err := sh.Output("gofmt", append([]string{"-l", "pkg", "docs", "deploy"}, mage...)...)
	if err != nil {
		return err
	}
	if unformatted != "" {
		return fmt.Errorf("these files are not formatted; run gofmt -w %s", strings.ReplaceAll(unformatted, "\n", " "))
	}
	return Golangci()
}

// Golangci runs golangci-lint, with go vet, staticcheck and the checks of
// security. The first run compiles it, which takes some minutes; Go keeps the
// result.
func Golangci() error {
	step("golangci-lint")
	return sh.RunV("go", "tool", golangciLint, "golangci-lint", "run")
}

func lintTypeScript() error {
	step("tsc, ESLint, Prettier")
	return errors.Join(sh.RunV("npm", "run", "--silent", "typecheck"), sh.RunV("npm", "run", "--silent", "lint"))
}
