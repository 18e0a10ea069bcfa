// wgpu 30 has no word for subgroups in a browser. This asks for them in its place wherever an adapter offers them, and leaves
// word for src/engine/gpu/device.rs whether they were given.
declare global {
  var subgroupsGiven: boolean | undefined;
}

export function askForSubgroups() {
  if (typeof GPUAdapter === 'undefined') return;
  const requestDevice = GPUAdapter.prototype.requestDevice;
  GPUAdapter.prototype.requestDevice = async function (this: GPUAdapter, descriptor = {}) {
    const asked: GPUFeatureName[] = [...(descriptor.requiredFeatures ?? [])];
    if (this.features.has('subgroups')) asked.push('subgroups');
    const device = await requestDevice.call(this, { ...descriptor, requiredFeatures: asked });
    globalThis.subgroupsGiven = device.features.has('subgroups');
    return device;
  };
}
