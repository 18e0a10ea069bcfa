import { useRef, useState } from 'preact/hooks';

/** A button that opens files, and a place to drop them on. */
export function FileDrop(props: {
  id: string;
  label: string;
  hint?: string;
  accept: string;
  multiple?: boolean;
  disabled?: boolean;
  onFiles: (files: File[]) => void;
}) {
  const [over, setOver] = useState(false);
  const input = useRef<HTMLInputElement>(null);
  const give = (list: FileList | null | undefined) => {
    const files = Array.from(list ?? []);
    if (files.length > 0 && !props.disabled) props.onFiles(files);
    if (input.current) input.current.value = '';
  };
  return (
    <div
      class={over ? 'drop over' : 'drop'}
      onDragOver={(e) => {
        e.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={(e) => {
        e.preventDefault();
        setOver(false);
        give(e.dataTransfer?.files);
      }}
    >
      <input
        ref={input}
        id={props.id}
        type="file"
        accept={props.accept}
        multiple={props.multiple}
        disabled={props.disabled}
        onChange={(e) => give(e.currentTarget.files)}
      />
      <label for={props.id} class="button">
        {props.label}
      </label>
      {props.hint && <span class="hint">{props.hint}</span>}
    </div>
  );
}
