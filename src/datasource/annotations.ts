// Annotations of Grafana's panels: their title and text are drawn as HTML.
import {
  type AnnotationEventMappings,
  type AnnotationQuery,
  type DataFrame,
  type DataQueryRequest,
  type Field,
  FieldType,
  textUtil,
} from '@grafana/data';

import type { Query } from './types';

// annotationOf returns the annotation that a request is for; undefined: it is for none.
export function annotationOf(request: Pick<DataQueryRequest<Query>, 'scopedVars'>): AnnotationQuery<Query> | undefined {
  return (request.scopedVars?.__annotation as { value?: AnnotationQuery<Query> } | undefined)?.value;
}

// asText escapes the texts of a frame, because Grafana draws them as HTML. It leaves
// tags as they are: Grafana does not draw them as HTML.
export function asText(frame: DataFrame, mappings: AnnotationEventMappings = {}): DataFrame {
  const named = (key: 'tags' | 'title' | 'text') => mappings[key]?.value ?? key;
  const tags = named('tags');
  return {
    ...frame,
    fields: frame.fields.map((field) =>
      field.name === tags && ![named('title'), named('text')].includes(tags) ? field : escaped(field)
    ),
  };
}

function escaped(field: Field): Field {
  if (field.type === FieldType.time || field.type === FieldType.number || field.type === FieldType.boolean) {
    return field;
  }
  const escape = (value: unknown) =>
    value == null ? value : textUtil.escapeHtml(typeof value === 'string' ? value : JSON.stringify(value));
  return { ...field, type: FieldType.string, values: Array.from(field.values as unknown[], escape) };
}
