package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/store"
)

// Problem is an error as RFC 9457 writes it. Field names the part of the
// request that is wrong, and Index which event of a list, counted from 0.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Field  string `json:"field,omitempty"`
	Index  *int64 `json:"index,omitempty"`
	Code   string `json:"code,omitempty"` // of a *store.Problem
}

// BadRequest is the problem of a request whose parameters are wrong.
func BadRequest(err error) Problem {
	p := ProblemOf(err)
	p.Title = "bad request"
	return p
}

// ProblemOf says what an error means to the caller.
func ProblemOf(err error) Problem {
	var batch *store.BatchError
	var field *event.FieldError
	var known *store.Problem
	switch {
	case errors.As(err, &field):
		p := Problem{Status: http.StatusBadRequest, Title: "bad event", Detail: err.Error(), Field: field.Field}
		if errors.As(err, &batch) {
			p.Index = &batch.Index
		}
		return p
	case errors.As(err, &known):
		return Problem{Status: http.StatusServiceUnavailable, Title: "database unavailable", Detail: known.Detail, Code: known.Code}
	case errors.Is(err, context.DeadlineExceeded):
		return Problem{Status: http.StatusServiceUnavailable, Title: "database unavailable", Code: store.Busy, Detail: "the database did not answer in time; check that it is up and what it is busy with, and ask again"}
	case errors.Is(err, context.Canceled):
		return Problem{Status: http.StatusServiceUnavailable, Title: "request ended", Detail: "the request was ended before it was answered; ask again"}
	}
	return Problem{Status: http.StatusInternalServerError, Title: "internal error", Detail: "the request could not be answered; the log of the server says why"}
}
