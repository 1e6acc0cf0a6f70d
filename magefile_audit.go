//go:build mage

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"time"

	"github.com/magefile/mage/mg"
)

const vulnerabilities = "https://vuln.go.dev"

// Audit looks up known vulnerabilities of the dependencies: Go's
// vulnerability database for the code that is called, and npm's advisories for
// the packages that ship. Where one cannot be reached, it says so and goes on.
func Audit(ctx context.Context) error {
	mg.Deps(dependencies)
	return errors.Join(auditGo(ctx), auditNpm(ctx))
}

func auditGo(ctx context.Context) error {
	asking, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(asking, http.MethodHead, vulnerabilities+"/index/db.json", nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err == nil {
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			err = errors.New(answer.Status)
		}
	}
	if err != nil {
		fmt.Printf("NOT CHECKED: known vulnerabilities of Go modules, because %s cannot be reached (%v)\n", vulnerabilities, err)
		return nil
	}
	checking, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(checking, "go", "tool", tools, "govulncheck", "./...")
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = os.Stdout, os.Stderr, time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("govulncheck: %w", err)
	}
	return nil
}

func auditNpm(ctx context.Context) error {
	asking, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(asking, "npm", "audit", "--json", "--omit=dev", "--audit-level=high", "--fetch-retries=0", "--fetch-timeout=15000")
	var out bytes.Buffer
	cmd.Stdout, cmd.WaitDelay = &out, time.Second
	failed := cmd.Run()
	var report struct {
		Message  string
		Metadata *struct {
			Vulnerabilities struct{ High, Critical, Total int }
		}
	}
	if err := json.Unmarshal(out.Bytes(), &report); err != nil || report.Metadata == nil {
		why := report.Message
		if why == "" {
			why = fmt.Sprint(failed)
		}
		fmt.Printf("NOT CHECKED: known vulnerabilities of npm packages, because the registry does not answer npm audit (%s)\n", why)
		return nil
	}
	found := report.Metadata.Vulnerabilities
	if found.High+found.Critical > 0 {
		return fmt.Errorf("npm audit: %d packages that ship have a fault of high or critical severity; see: npm audit --omit=dev", found.High+found.Critical)
	}
	fmt.Printf("npm audit: none of high or critical severity in what ships, %d lesser\n", found.Total)
	return nil
}
